"""Shared-prefix attention on TPU: tiles of rows through :mod:`pallas_kernels.tiled_attention.tpu`."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.prefix_attention import xla
from pallas_kernels.tiled_attention.rows import fold_heads, tile_rows, tokens_per_tile, untile
from pallas_kernels.tiled_attention.tpu import ROW_MULTIPLE, attend_tiles, check_supported

TILE = 128


def prefix_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    query_offsets: np.ndarray | jax.Array,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.prefix_attention`. The gradient is that of the XLA backend."""
    check_supported(q)
    num_rows, num_heads = q.shape[:2]
    num_groups, capacity, num_kv_heads = k.shape[:3]
    if num_rows == 0:
        raise NotImplementedError("takes at least one row, got none")
    known = isinstance(query_offsets, np.ndarray)
    most = max(1, int(np.diff(query_offsets).max())) if known else num_rows
    tokens = tokens_per_tile(num_heads // num_kv_heads, most, TILE, ROW_MULTIPLE)
    lengths = jnp.full(num_groups, capacity, jnp.int32) if kv_lengths is None else kv_lengths

    def kernel(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        tiles = tile_rows(query_offsets if known else offsets, num_rows, tokens)
        used = jnp.where(tiles.used, lengths[tiles.group], 0)
        o, lse = attend_tiles(fold_heads(q[tiles.row], num_kv_heads), k, v, tiles.group, used, scale=scale)
        return untile(tiles, o[:, 0], lse[:, 0], tokens)

    def plain(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        return xla.prefix_attention(q, k, v, lengths, query_offsets if known else offsets, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, jnp.asarray(query_offsets, jnp.int32)))
