"""Attention of new tokens to the committed slots of their row, in jax: row by row, head by head, block by block."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.merge.xla import merge
from pallas_kernels.tiled_attention.rows import fold_heads, unfold_heads
from pallas_kernels.tiled_attention.xla import attend_heads, over_tiles

BLOCK = 128  # ranges are cut at multiples of it, or of the pages that it has room for


@functools.partial(jax.jit, static_argnames=("num_splits", "scale"))
def attend_committed(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    num_splits: int | None,
    scale: float,
    page_table: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of ``q [B, T, Hq, D]`` to the first ``lengths[b]`` slots, of its row or of the row's pages.

    Without ``num_splits`` there is one range.
    """
    batch, tokens = q.shape[:2]
    page, num_kv_heads = k.shape[1:3]
    capacity, block = page, BLOCK
    if page_table is not None:
        capacity, block = page * page_table.shape[1], page * max(1, BLOCK // page)
    size = block * -(-capacity // (num_splits or 1) // block)
    ranges = [(first, min(first + size, capacity)) for first in range(0, capacity, size)]

    def attend(row):
        q, where, length = row
        folded = fold_heads(q, num_kv_heads)
        o, lse = merge([attend_heads(folded, k, v, where, length, scale, *bounds) for bounds in ranges])
        return unfold_heads(o, tokens), unfold_heads(lse[..., None], tokens)[..., 0]

    return over_tiles(attend, (q, jnp.arange(batch) if page_table is None else page_table, lengths))
