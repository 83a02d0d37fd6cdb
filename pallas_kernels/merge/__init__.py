"""Merging attention states: attention over a set of keys from attention over its parts.

Online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867. As the recombination of a shared prefix: Hydragen, Juravsky et
al. 2024, arXiv 2402.05099, equations 4 and 5; FlashInfer's attention states: Ye et al. 2025, arXiv 2501.01005.

The state of attention over a set of keys is its output and the natural logarithm of the softmax's denominator:

    lse = log sum_j e^(s_j)        o = sum_j e^(s_j - lse) v_j

The state over a union of disjoint sets follows from the states over the sets:

    lse = log sum_i e^(lse_i)      o = sum_i e^(lse_i - lse) o_i

This is a commutative monoid; the state of the empty set, ``(0, -inf)``, is its identity.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import check_float
from pallas_kernels.backends import dispatch
from pallas_kernels.merge import xla

BACKENDS = {"xla": xla.merge}


def merge(
    parts: Sequence[tuple[jax.Array, jax.Array]], *, implementation: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Merge the attention states of disjoint sets of keys.

    Differentiable. Weights and sums are float32 at least. The order of the parts changes rounding only.

    Args:
      parts: ``(o [..., D], lse [...])`` each, all of one shape, at least one. Where ``lse`` is ``-inf`` the part holds nothing
        and its ``o`` is not read.
      implementation: ``"xla"``, the only one.

    Returns:
      ``o [..., D]`` and ``lse [...]``, float32 (float64 if a part is). ``(0, -inf)`` where no part holds anything.

    Raises:
      TypeError: a part that is not of a float type.
      ValueError: no parts, or shapes that do not agree.
    """
    parts = [(jnp.asarray(o), jnp.asarray(lse)) for o, lse in parts]
    if not parts:
        raise ValueError("parts must hold at least one attention state; got none")
    shape = parts[0][0].shape
    for index, (o, lse) in enumerate(parts):
        check_float(f"o of part {index}", o)
        check_float(f"lse of part {index}", lse)
        if o.ndim == 0 or o.shape != shape:
            raise ValueError(f"o of part {index} must have the shape of the first, {list(shape)}; got {list(o.shape)}")
        if lse.shape != shape[:-1]:
            raise ValueError(f"lse of part {index} must have shape {list(shape[:-1])}; got {list(lse.shape)}")
    return dispatch("merge", BACKENDS, implementation, parts)
