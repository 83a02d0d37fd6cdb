"""Attention of new tokens to the committed slots on Ampere and newer: :mod:`pallas_kernels.tiled_attention.triton`."""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.decode_attention import xla
from pallas_kernels.merge.xla import merge
from pallas_kernels.tiled_attention.rows import tokens_per_tile
from pallas_kernels.tiled_attention.triton import attend_tiles, check_supported, most_rows

MOST_RANGES = 16  # with eight key/value heads, a single row then has work for the 108 multiprocessors of an A100
FEWEST_KEYS = 512  # in a range: results of ranges are written, read and merged


def attend_committed(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, num_splits: int | None, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Attention of ``q [B, T, Hq, D]`` to the first ``lengths[b]`` slots. The gradient is that of the XLA backend.

    The new tokens of a row, and the heads that share a key/value head, take one tile, or several where there are many. How
    they are cut depends on the tokens, and the ranges on the capacity, never on the batch.
    """
    check_supported(q, k)
    batch, tokens, num_heads, width = q.shape
    capacity, num_kv_heads = k.shape[1:3]
    splits = num_splits or min(MOST_RANGES, -(-capacity // FEWEST_KEYS))
    size = tokens_per_tile(num_heads // num_kv_heads, tokens, most_rows(width, q.dtype), 1)
    tiles = -(-tokens // size)

    def kernel(floats, integers):
        q, k, v = floats
        (lengths,) = integers
        row = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), tiles)
        begin = jnp.tile(size * jnp.arange(tiles, dtype=jnp.int32), batch)
        first, count = row * tokens + begin, jnp.minimum(tokens - begin, size)
        flat = q.reshape(batch * tokens, num_heads, width)
        ranges = attend_tiles(flat, k, v, first, count, row, lengths[row], tokens=size, num_splits=splits, scale=scale)
        o, lse = merge(list(zip(*ranges)))
        return o.reshape(q.shape), lse.reshape(q.shape[:-1])

    def plain(floats, integers):
        q, k, v = floats
        return xla.attend_committed(q, k, v, *integers, num_splits, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths,))
