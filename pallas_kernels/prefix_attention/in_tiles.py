"""Shared-prefix attention through a kernel that attends tiles of rows, whichever platform it is for."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.merge.xla import merge
from pallas_kernels.prefix_attention import xla
from pallas_kernels.tiled_attention.rows import fold_heads, tile_rows, tokens_per_tile, untile


def attend_groups(
    attend_tiles: Callable[..., tuple[jax.Array, jax.Array]],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    query_offsets: np.ndarray | jax.Array,
    scale: float,
    *,
    tile: int,
    multiple: int,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.prefix_attention`. The gradient is that of the XLA backend.

    Args:
      attend_tiles: from ``(q [W, Hkv, N, D], k, v, group [W], length [W])`` to ``o [W, M, Hkv, N, D]`` and ``lse``.
      q: ``[R, Hq, D]``.
      k: ``[G, L, Hkv, D]``.
      v: like ``k``.
      kv_lengths: ``int32[G]`` or None.
      query_offsets: ``int32[G + 1]``, NumPy where known.
      scale: of the scores.
      tile: rows a tile has, about.
      multiple: rows of a tile are a multiple of it.
    """
    num_rows, num_heads = q.shape[:2]
    num_groups, capacity, num_kv_heads = k.shape[:3]
    if num_rows == 0:
        raise NotImplementedError("takes at least one row, got none")
    known = isinstance(query_offsets, np.ndarray)
    most = max(1, int(np.diff(query_offsets).max())) if known else num_rows
    tokens = tokens_per_tile(num_heads // num_kv_heads, most, tile, multiple)
    lengths = jnp.full(num_groups, capacity, jnp.int32) if kv_lengths is None else kv_lengths

    def kernel(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        tiles = tile_rows(query_offsets if known else offsets, num_rows, tokens)
        used = jnp.where(tiles.used, lengths[tiles.group], 0)
        o, lse = attend_tiles(fold_heads(q[tiles.row], num_kv_heads), k, v, tiles.group, used)
        if o.shape[1] == 1:
            return untile(tiles, o[:, 0], lse[:, 0], tokens)
        o, lse = merge([(o[:, part], lse[:, part]) for part in range(o.shape[1])])
        return untile(tiles, o, lse, tokens)

    def plain(floats, integers):
        q, k, v = floats
        lengths, offsets = integers
        return xla.prefix_attention(q, k, v, lengths, query_offsets if known else offsets, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, jnp.asarray(query_offsets, jnp.int32)))
