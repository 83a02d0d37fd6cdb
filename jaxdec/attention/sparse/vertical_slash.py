"""Vertical-slash prefill: columns that many queries look at, and diagonals at distances that many queries look back.

MInference 1.0. Jiang et al., 2024, arXiv 2407.02490, as Nawrot et al. 2025 (arXiv 2504.17768) run it.
The last ``w`` queries of a prompt of ``L`` tokens are scored against all keys, and stand for the others:

    A          = softmax(Q[L - w:] K^T / sqrt(E))                     causal
    column[j]  = mean over i of A[i, j]                               the first ``sinks`` columns are always taken
    slash[d]   = mean over i of A[i, i - d],  d = 0 .. L - 1          the nearest ``local`` diagonals are always taken
    cells      = {(t, j): j <= t, j in top columns or t - j in top slashes}

The diagonals are computed in tiles, by blocks of ``b = tile`` queries: those of block ``n`` read, at distance ``d``, the keys
``n b - d .. n b - d + b - 1``. A tile is read whole, so neighbouring diagonals come with those asked for (``tile=1``: just
``cells``). Tiles that overlap are laid side by side: with the distances in descending order and ``end`` behind the last tile,

    start = max(n b - d, 0);   skip if start + b <= end;   else a tile at max(start, end)

and ``d >= (n + 1) b`` is skipped; ``end`` is 0 at first. Columns in no tile are gathered one by one; no cell counts
twice.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.selection import PrefillRule, Selection
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class VerticalSlash(PrefillRule):
    """The ``vertical`` columns and ``slash`` diagonals with the largest scores.

    Attributes:
      vertical: columns, at least ``sinks``.
      slash: diagonals, at least ``local``.
      window: queries that are scored; all of a prompt that is not longer. At least 1.
      sinks: first columns that are always taken.
      local: nearest diagonals that are always taken, at least 1: a query reads its own key.
      tile: queries in a block, and keys in a tile. At least 1.
    """

    vertical: int = 512
    slash: int = 512
    window: int = 256
    sinks: int = 4
    local: int = 64
    tile: int = 64

    def __post_init__(self):
        check_window(self.window, self.sinks, self.local, self.tile)
        if self.vertical < self.sinks:
            raise ValueError(f"vertical must be at least sinks, {self.sinks}; got {self.vertical}")
        if self.slash < self.local:
            raise ValueError(f"slash must be at least local, {self.local}; got {self.slash}")

    def check_tokens(self, num_tokens: int):
        """Prompts must have room for more tokens than are scored."""
        check_longer_than_window(num_tokens, self.window)

    def select(self, q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""]) -> Selection:
        """Select for one prompt and one query head; ``q`` and ``k`` are 0 behind ``length``."""
        num_tokens = q.shape[0]
        column, slash = last_query_scores(q, k, length, self.window)
        columns, slashes = min(self.vertical, num_tokens), min(self.slash, num_tokens)
        return tiles_and_columns(
            top(column, length, self.sinks, columns, columns),
            top(slash, length, self.local, slashes, slashes),
            length,
            self.tile,
            max_columns=columns,
            max_slashes=slashes,
        )

    def selecting_flops(self, num_tokens: int, num_heads: int, head_dim: int) -> int:
        """``2 w T E`` per query head."""
        return 2 * self.window * num_tokens * head_dim * num_heads


def check_window(window: int, sinks: int, local: int, tile: int):
    """Raise ValueError for sizes that no rule of columns and diagonals can have."""
    if window < 1:
        raise ValueError(f"window must be at least 1 query; got {window}")
    if sinks < 0:
        raise ValueError(f"sinks must not be negative; got {sinks}")
    if local < 1:
        raise ValueError(f"local must be at least 1, for a query reads its own key; got {local}")
    if tile < 1:
        raise ValueError(f"tile must be at least 1 key; got {tile}")


def check_longer_than_window(num_tokens: int, window: int):
    """Raise ValueError unless there is room for more tokens than are scored."""
    if num_tokens <= window:
        raise ValueError(
            f"q must have room for more tokens than window, {window}; got {num_tokens}: "
            "attention to prompts this short is dense"
        )


def last_query_scores(
    q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""], window: int
) -> tuple[Float[Array, "T"], Float[Array, "T"]]:
    """Mean attention of the last ``window`` queries to each column, and at each distance; both sum to 1.

    Of a prompt of fewer tokens all queries are taken. Entries from ``length`` on are 0.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    key = jnp.arange(k.shape[0])
    position = length - window + jnp.arange(window)[:, None]
    last = q[jnp.clip(position[:, 0], 0)].astype(dtype)
    scores = jnp.dot(last, k.astype(dtype).T, precision=jax.lax.Precision.HIGHEST) / q.shape[1] ** 0.5
    attention = jax.nn.softmax(jnp.where(key <= jnp.maximum(position, 0), scores, -jnp.inf), axis=-1)
    attention = jnp.where(position >= 0, attention, 0)
    queries = jnp.clip(length, 1, window)
    diagonals = sum_over_diagonals(attention)[jnp.clip(length - 1 - key, 0)]
    return attention.sum(axis=0) / queries, jnp.where(key < length, diagonals, 0) / queries


def sum_over_diagonals(matrix: Float[Array, "N S"]) -> Float[Array, "D"]:
    """Sums of ``matrix[r, u + r - (N - 1)]`` over ``r``, for ``u = 0 .. N + S - 2``, by shifting rows against each other."""
    rows, columns = matrix.shape
    width = columns + 2 * rows - 2
    flat = jnp.pad(matrix, ((0, 0), (rows - 1, rows - 1))).reshape(-1)
    # Rows that are one longer than they were: what was in column u + r of row r is now in column u.
    shifted = jnp.pad(flat, (0, rows)).reshape(rows, width + 1)
    return shifted[:, : rows + columns - 1].sum(axis=0)


def top(
    score: Float[Array, "T"], length: Int[Array, ""], always: int, count: int | Int[Array, ""], max_count: int
) -> Bool[Array, "T"]:
    """Mark the ``count <= max_count`` entries of largest score before ``length``; the first ``always`` are the largest."""
    index = jnp.arange(score.shape[0])
    score = jnp.where(index < always, jnp.inf, score)
    _, best = jax.lax.top_k(jnp.where(index < length, score, -jnp.inf), max_count)
    marked = jnp.zeros(score.shape, bool).at[best].set(jnp.arange(max_count) < count)
    return marked & (index < length)


def tiles_and_columns(
    columns: Bool[Array, "T"],
    slashes: Bool[Array, "T"],
    length: Int[Array, ""],
    tile: int,
    *,
    max_columns: int,
    max_slashes: int,
) -> Selection:
    """Lay tiles along the marked diagonals, and list the marked columns that lie in none.

    Args:
      columns: marked keys.
      slashes: marked distances; distance 0 among them.
      length: tokens of the prompt; blocks of queries behind it read nothing.
      tile: queries in a block and keys in a tile.
      max_columns: columns marked at most.
      max_slashes: diagonals marked at most.
    """
    num_tokens = columns.shape[0]
    num_blocks = -(-num_tokens // tile)
    unused = num_blocks * tile
    first = tile * jnp.arange(num_blocks)
    # farthest[x]: the largest marked distance below x, -1 if there is none
    marked = jnp.where(slashes, jnp.arange(num_tokens), -1)
    farthest = jnp.concatenate([jnp.full(1, -1), jax.lax.cummax(marked)])

    def lay(end, _):
        # A tile at this distance reaches behind end, so it is read; those farther away lie within what has been laid.
        distance = farthest[jnp.clip(first + tile - end, 0, num_tokens)]
        more = (distance >= 0) & (first < length)
        start = jnp.maximum(first - distance, end)
        return jnp.where(more, start + tile, end), jnp.where(more, start, unused)

    # Tiles are disjoint and begin before the block's end: block n has n + 1 of them at most.
    _, tiles = jax.lax.scan(lay, jnp.zeros_like(first), length=min(max_slashes, num_blocks))
    tiles = tiles.T.astype(jnp.int32)

    listed = jnp.nonzero(columns, size=max_columns, fill_value=unused)[0].astype(jnp.int32)

    def outside(block_tiles, block_first):
        before = jnp.searchsorted(block_tiles, listed, side="right") - 1
        inside = (before >= 0) & (listed < block_tiles[jnp.maximum(before, 0)] + tile)
        # Distance 0 covers the block's own keys: columns in no tile come before its first query.
        take = ~inside & (listed < block_first) & (block_first < length)
        place = jnp.where(take, jnp.cumsum(take) - 1, max_columns)
        return jnp.full(max_columns, unused, jnp.int32).at[place].set(listed, mode="drop"), take.sum(dtype=jnp.int32)

    gathered, num_columns = jax.vmap(outside)(tiles, first)
    return Selection(tiles, (tiles < unused).sum(axis=1, dtype=jnp.int32), gathered, num_columns, tile)
