"""Attention of new tokens to the committed slots on Hopper, through :mod:`pallas_kernels.tiled_attention.hopper`."""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.decode_attention import xla
from pallas_kernels.merge.xla import merge
from pallas_kernels.tiled_attention.hopper import MOST_ROWS, attend_tiles, check_supported
from pallas_kernels.tiled_attention.rows import fold_heads, unfold_heads

KEYS_OF_A_RANGE = 1024
"""Eight rows of eight key/value heads then have two ranges for each multiprocessor from 4096 slots on."""


def attend_committed(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, num_splits: int | None, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Attention of ``q [B, T, Hq, D]`` to the first ``lengths[b]`` slots. The gradient is that of the XLA backend.

    The new tokens of a row, and the heads that share a key/value head, take one tile, or several where there are many.
    """
    check_supported(q)
    batch, tokens, num_heads = q.shape[:3]
    capacity, num_kv_heads = k.shape[1:3]
    splits = num_splits or -(-capacity // KEYS_OF_A_RANGE)
    rows = tokens * num_heads // num_kv_heads
    tiles = -(-rows // MOST_ROWS)
    size = -(-rows // tiles)

    def kernel(floats, integers):
        q, k, v = floats
        (lengths,) = integers
        folded = jnp.pad(fold_heads(q, num_kv_heads), ((0, 0), (0, 0), (0, tiles * size - rows), (0, 0)))
        folded = folded.reshape(batch, num_kv_heads, tiles, size, -1).swapaxes(1, 2)
        row = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), tiles)
        o, lse = attend_tiles(
            folded.reshape(batch * tiles, num_kv_heads, size, -1),
            k,
            v,
            row,
            lengths[row],
            num_splits=splits,
            scale=scale,
        )
        o, lse = merge([(o[:, part], lse[:, part]) for part in range(o.shape[1])])

        def together(array):  # tiles of a row side by side again
            array = array.reshape(batch, tiles, num_kv_heads, size, -1).swapaxes(1, 2)
            return unfold_heads(array.reshape(batch, num_kv_heads, tiles * size, -1)[:, :, :rows], tokens)

        return together(o), together(lse)[..., 0]

    def plain(floats, integers):
        q, k, v = floats
        return xla.attend_committed(q, k, v, *integers, num_splits, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths,))
