"""Cutting ragged groups of query rows into tiles of one size, each within one group, and putting the results back.

Group ``g`` has the rows ``offsets[g] .. offsets[g + 1] - 1`` and takes ``ceil(size / tile)`` tiles. The number of tiles must
be known to the compiler: it is exact where the offsets are known (NumPy), and ``floor(R / tile) + G`` where they are traced,
which is always enough. Tiles that are not needed belong to no group and have no rows.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class RowTiles(NamedTuple):
    """Where rows are.

    Attributes:
      row: ``int32[W, tile]``, the row in each place of each tile; any row where the place is empty.
      group: ``int32[W]``, the group that a tile belongs to; any group where the tile is empty.
      used: ``bool[W]``, whether the tile has rows.
      place: ``int32[R]``, for every row its place in the flattened tiles.
      member: ``bool[R]``, whether a row belongs to a group.
    """

    row: jax.Array
    group: jax.Array
    used: jax.Array
    place: jax.Array
    member: jax.Array


def tile_rows(offsets: np.ndarray | jax.Array, num_rows: int, tile: int) -> RowTiles:
    """Cut groups into tiles.

    Args:
      offsets: ``int32[G + 1]``, not falling, within ``0..num_rows``; NumPy where known.
      num_rows: ``R``.
      tile: rows per tile.
    """
    num_groups = offsets.shape[0] - 1
    if isinstance(offsets, np.ndarray):
        num_tiles = max(1, int((-(-np.diff(offsets) // tile)).sum()))
    else:
        num_tiles = num_rows // tile + num_groups
    offsets = jnp.asarray(offsets, jnp.int32)
    ends = jnp.cumsum(-(-jnp.diff(offsets) // tile))  # of each group, in tiles
    begins = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    index = jnp.arange(num_tiles)
    group = jnp.minimum(jnp.searchsorted(ends, index, side="right"), num_groups - 1)
    row = offsets[group, None] + (index - begins[group])[:, None] * tile + jnp.arange(tile)
    rows = jnp.arange(num_rows)
    owner = jnp.minimum(jnp.searchsorted(offsets[1:], rows, side="right"), num_groups - 1)
    member = (rows >= offsets[0]) & (rows < offsets[-1])
    return RowTiles(
        row=jnp.clip(row, 0, max(num_rows - 1, 0)),
        group=group.astype(jnp.int32),
        used=index < ends[-1],
        place=jnp.where(member, begins[owner] * tile + rows - offsets[owner], 0),
        member=member,
    )


def tokens_per_tile(heads_per_kv_head: int, most_tokens: int, target: int, multiple: int) -> int:
    """Tokens in a tile, so that tokens times heads is near ``target``, no larger than needed, and divides by ``multiple``."""
    step = multiple // math.gcd(heads_per_kv_head, multiple)
    tokens = max(1, min(most_tokens, target // heads_per_kv_head))
    return -(-tokens // step) * step


def fold_heads(q: jax.Array, num_kv_heads: int) -> jax.Array:
    """``[..., n, Hq, D]`` to ``[..., Hkv, n * (Hq / Hkv), D]``: query heads of a key/value head become rows."""
    *lead, tokens, num_heads, width = q.shape
    split = q.reshape(*lead, tokens, num_kv_heads, num_heads // num_kv_heads, width)
    return jnp.moveaxis(split, -4, -3).reshape(*lead, num_kv_heads, -1, width)


def unfold_heads(array: jax.Array, tokens: int) -> jax.Array:
    """The inverse: ``[..., Hkv, n * (Hq / Hkv), D]`` to ``[..., n, Hq, D]``."""
    *lead, num_kv_heads, rows, width = array.shape
    split = array.reshape(*lead, num_kv_heads, tokens, rows // tokens, width)
    return jnp.moveaxis(split, -3, -4).reshape(*lead, tokens, -1, width)


def untile(tiles: RowTiles, o: jax.Array, lse: jax.Array, tokens: int) -> tuple[jax.Array, jax.Array]:
    """Results of tiles, ``o [W, Hkv, N, D]`` and ``lse [W, Hkv, N]``, to those of rows: ``[R, Hq, D]`` and ``[R, Hq]``."""
    o, lse = unfold_heads(o, tokens), unfold_heads(lse[..., None], tokens)[..., 0]
    o, lse = (array.reshape(-1, *array.shape[2:])[tiles.place] for array in (o, lse))
    return jnp.where(tiles.member[:, None, None], o, 0), jnp.where(tiles.member[:, None], lse, -jnp.inf)
