"""Shared-prefix attention on Ampere and newer: tiles of rows through :mod:`pallas_kernels.tiled_attention.triton`."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.merge.xla import merge
from pallas_kernels.prefix_attention import xla
from pallas_kernels.tiled_attention.rows import tile_rows, tokens_per_tile
from pallas_kernels.tiled_attention.triton import attend_tiles, check_supported, most_rows

KEYS_OF_A_RANGE = 2048
"""Longer prefixes are cut, so that few rows are work for more multiprocessors than there are key/value heads. Never chosen by
the batch: ranges are what the order of summation hangs on."""


def prefix_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    query_offsets: np.ndarray | jax.Array,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.prefix_attention`. The gradient is that of the XLA backend.

    A tile, a key/value head and a range of the keys are a program.
    """
    check_supported(q, k)
    num_rows, num_heads, width = q.shape
    num_groups, capacity, num_kv_heads = k.shape[:3]
    known = isinstance(query_offsets, np.ndarray)
    most = max(1, int(np.diff(query_offsets).max())) if known else num_rows
    tokens = tokens_per_tile(num_heads // num_kv_heads, most, most_rows(width, q.dtype), 1)
    lengths = jnp.full(num_groups, capacity, jnp.int32) if kv_lengths is None else kv_lengths

    def kernel(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        tiles = tile_rows(query_offsets if known else offsets, num_rows, tokens)
        first = tiles.row[:, 0].astype(jnp.int32)
        count = jnp.where(tiles.used, jnp.minimum(offsets[tiles.group + 1] - first, tokens), 0)
        splits = -(-capacity // KEYS_OF_A_RANGE)
        ranges = attend_tiles(
            q, k, v, first, count, tiles.group, lengths[tiles.group], tokens=tokens, num_splits=splits, scale=scale
        )
        o, lse = merge(list(zip(*ranges)))
        # Rows of no group are in no tile.
        return jnp.where(tiles.member[:, None, None], o, 0), jnp.where(tiles.member[:, None], lse, -jnp.inf)

    def plain(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        return xla.prefix_attention(q, k, v, lengths, query_offsets if known else offsets, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, jnp.asarray(query_offsets, jnp.int32)))
