"""Query rows of one key/value head against a range of its keys, in jax: one plain product per block of keys.

A product with batch dimensions is many times slower on a processor than the same work as plain matrices, so nothing here has
a batch dimension; callers loop over groups and heads. A block of one head is cut out of ``[G, L, Hkv, D]`` at a time and
stays in the processor's cache for both products.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of

CPU_BLOCK = 512
ACCELERATOR_BLOCK = 8192  # a loop on an accelerator launches kernels over and over


def attend_head(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group: jax.Array | int,
    head: jax.Array | int,
    length: jax.Array | int | None,
    scale: float,
    first: int = 0,
    stop: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of rows over the keys ``first .. min(stop, length) - 1`` of one head of one group.

    Args:
      q: ``[N, D]``.
      k: ``[G, L, Hkv, D]``. From ``length`` on anything can lie in it, NaN included; blocks from there on are not computed.
      v: like ``k``.
      group: whose keys: an index; or ``int32[M]``, the groups that they lie in one after another, as in pages of a pool. Ranges
        then begin and end between pages.
      head: key/value head.
      length: keys in use; None for all.
      scale: of the scores.
      first: first key.
      stop: behind the last key; None for ``L``.

    Returns:
      ``o [N, D]`` and ``lse [N]``, float32 at least.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    on_cpu = jax.default_backend() == "cpu"
    block = CPU_BLOCK if on_cpu else ACCELERATOR_BLOCK
    page, width = k.shape[1], q.shape[-1]
    in_pages = jnp.ndim(group) == 1
    block = max(block // page, 1) * page if in_pages else block
    stop = (page * jnp.shape(group)[0] if in_pages else page) if stop is None else stop
    product_type = dtype if on_cpu else q.dtype  # products of two-byte floats are slow on processors
    queries = q.astype(product_type)

    def cut(array, start, size):
        if in_pages:
            pages = jax.lax.dynamic_slice_in_dim(jnp.asarray(group), start // page, size // page)
            part = array.at[pages, :, head].get(mode="promise_in_bounds")
        else:
            part = jax.lax.dynamic_slice(array, (group, start, head, 0), (1, size, 1, width))
        return part.reshape(size, width).astype(product_type)

    def take_in(state: SoftmaxState, start, size: int) -> SoftmaxState:
        keys, values = cut(k, start, size), cut(v, start, size)
        used = None if length is None else (start + jnp.arange(size) < length)
        if used is not None:  # 0 * NaN is NaN, in the result and in the gradient
            keys, values = jnp.where(used[:, None], keys, 0), jnp.where(used[:, None], values, 0)
        scores = scale * jnp.dot(queries, keys.T, preferred_element_type=dtype, precision=precision_of(product_type))
        return fold(state, scores if used is None else jnp.where(used, scores, -jnp.inf), values)

    def step(state: SoftmaxState, start) -> tuple[SoftmaxState, None]:
        if length is None:
            return take_in(state, start, block), None
        return jax.lax.cond(start < length, lambda s: take_in(s, start, block), lambda s: s, state), None

    whole, rest = divmod(max(stop - first, 0), block)
    state = empty(q.shape[0], width, dtype)
    if whole == 1:
        state, _ = step(state, first)
    elif whole:
        state, _ = jax.lax.scan(step, state, first + block * jnp.arange(whole))
    if rest:
        state = take_in(state, first + whole * block, rest)
    o, lse = finish(state)
    return o, lse[:, 0]


def attend_heads(
    q: jax.Array, k: jax.Array, v: jax.Array, group: jax.Array | int, *where
) -> tuple[jax.Array, jax.Array]:
    """:func:`attend_head` for all heads: ``q [Hkv, N, D]`` to ``o [Hkv, N, D]`` and ``lse [Hkv, N]``."""
    heads = (q, jnp.arange(q.shape[0]))
    return over_tiles(lambda head: attend_head(head[0], k, v, group, head[1], *where), heads)


def over_tiles(attend: Callable[[Any], Any], tiles: Any) -> Any:
    """Apply a function to every tile (or head): one after the other on a processor, all at once elsewhere."""
    return jax.lax.map(attend, tiles) if jax.default_backend() == "cpu" else jax.vmap(attend)(tiles)
