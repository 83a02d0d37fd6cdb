"""The running softmax of a set of query rows (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867).

    m' = max(m, max s)     z' = z e^(m - m') + sum e^(s - m')     o' = o e^(m - m') + e^(s - m') V

One text for XLA and for the TPU kernel. The state is ``top [N, 1]``, ``total [N, 1]``, ``weighted [N, D]``, all of the type
that sums are taken in.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SoftmaxState(NamedTuple):
    """Largest score so far, sum of the weights, and weighted sum of the values."""

    top: jax.Array
    total: jax.Array
    weighted: jax.Array


def empty(rows: int, width: int, dtype: jnp.dtype) -> SoftmaxState:
    """The state before any key."""
    nothing = jnp.zeros((rows, 1), dtype)
    return SoftmaxState(nothing - jnp.inf, nothing, jnp.zeros((rows, width), dtype))


def fold(state: SoftmaxState, scores: jax.Array, values: jax.Array) -> SoftmaxState:
    """Take in ``n`` more keys.

    Args:
      state: so far.
      scores: ``[N, n]``, scaled, of the state's type; ``-inf`` for a key that the row may not read.
      values: ``[n, D]``, finite where no row may read them.
    """
    state, weights = weigh(state, scores)
    product = jnp.dot(
        weights.astype(values.dtype),
        values,
        preferred_element_type=scores.dtype,
        precision=precision_of(values.dtype),
    )
    return state._replace(weighted=state.weighted + product)


def weigh(state: SoftmaxState, scores: jax.Array) -> tuple[SoftmaxState, jax.Array]:
    """The first half of :func:`fold`: the state without the new values, and their weights, ``[N, n]``."""
    top = jnp.maximum(state.top, jax.lax.stop_gradient(scores.max(-1, keepdims=True)))  # cancels out of the results
    base = jnp.where(top == -jnp.inf, 0.0, top)  # a row that could read nothing yet: -inf - -inf is NaN
    shrink, weights = jnp.exp(state.top - base), jnp.exp(scores - base)
    total = state.total * shrink + weights.sum(-1, keepdims=True)
    return SoftmaxState(top, total, state.weighted * shrink), weights


def finish(state: SoftmaxState) -> tuple[jax.Array, jax.Array]:
    """Output ``[N, D]`` and log-sum-exp ``[N, 1]``: ``(0, -inf)`` for rows that read nothing."""
    divisor = jnp.where(state.total == 0, 1.0, state.total)
    lse = jnp.where(state.total == 0, -jnp.inf, state.top + jnp.log(divisor))
    return state.weighted / divisor, lse


def precision_of(dtype: jnp.dtype) -> jax.lax.Precision:
    """Precision of products: float32 is meant as float32, also where the default is less (TF32, three bfloat16 passes)."""
    return jax.lax.Precision.DEFAULT if jnp.dtype(dtype).itemsize == 2 else jax.lax.Precision.HIGHEST
