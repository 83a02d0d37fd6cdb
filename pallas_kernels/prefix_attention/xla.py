"""Shared-prefix attention in jax: a plain product per group, key/value head and block of keys."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.tiled_attention.rows import fold_heads, tile_rows, tokens_per_tile, unfold_heads, untile
from pallas_kernels.tiled_attention.xla import attend_heads, over_tiles

UNROLLED = 16  # groups that are written out; more of them run in a loop over tiles
TILE = 128


def prefix_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    query_offsets: np.ndarray | jax.Array,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.prefix_attention`."""
    num_groups = k.shape[0]
    if not isinstance(query_offsets, np.ndarray):
        return _tiled(q, k, v, kv_lengths, query_offsets, scale)
    known = _written_out if num_groups <= UNROLLED else _tiled_known
    return known(q, k, v, kv_lengths, tuple(query_offsets.tolist()), scale)


@functools.partial(jax.jit, static_argnames=("offsets", "scale"))
def _written_out(q, k, v, kv_lengths, offsets: tuple[int, ...], scale: float):
    """Groups of known size, each one tile."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    outputs, lses = [], []

    def nothing(rows: int):
        outputs.append(jnp.zeros((rows, *q.shape[1:]), dtype))
        lses.append(jnp.full((rows, q.shape[1]), -jnp.inf, dtype))

    nothing(offsets[0])
    for group, (begin, end) in enumerate(itertools.pairwise(offsets)):
        if begin == end:
            continue
        length = None if kv_lengths is None else kv_lengths[group]
        folded = fold_heads(q[begin:end], k.shape[2])
        o, lse = attend_heads(folded, k, v, group, length, scale)
        outputs.append(unfold_heads(o, end - begin))
        lses.append(unfold_heads(lse[..., None], end - begin)[..., 0])
    nothing(q.shape[0] - offsets[-1])
    return jnp.concatenate(outputs), jnp.concatenate(lses)


@functools.partial(jax.jit, static_argnames=("offsets", "scale"))
def _tiled_known(q, k, v, kv_lengths, offsets: tuple[int, ...], scale: float):
    """Many groups of known size."""
    return _in_tiles(q, k, v, kv_lengths, np.array(offsets), scale)


@functools.partial(jax.jit, static_argnames="scale")
def _tiled(q, k, v, kv_lengths, offsets: jax.Array, scale: float):
    """Groups whose sizes are data."""
    return _in_tiles(q, k, v, kv_lengths, offsets, scale)


def _in_tiles(q, k, v, kv_lengths, offsets: np.ndarray | jax.Array, scale: float):
    """Tiles of one size, one after the other."""
    num_rows, num_heads = q.shape[:2]
    num_kv_heads = k.shape[2]
    tokens = tokens_per_tile(num_heads // num_kv_heads, num_rows, TILE, 1)
    tiles = tile_rows(offsets, num_rows, tokens)
    lengths = jnp.full(k.shape[0], k.shape[1]) if kv_lengths is None else kv_lengths
    lengths = jnp.where(tiles.used, lengths[tiles.group], 0)

    def attend(tile):
        rows, group, length = tile
        return attend_heads(rows, k, v, group, length, scale)

    o, lse = over_tiles(attend, (fold_heads(q[tiles.row], num_kv_heads), tiles.group, lengths))
    return untile(tiles, o, lse, tokens)
