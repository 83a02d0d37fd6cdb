"""FlexPrefill as Nawrot et al. re-implemented it: as many columns and diagonals as cover a share of attention.

FlexPrefill. Lai et al., 2025, arXiv 2502.20766; Nawrot et al. 2025, arXiv 2504.17768. With the scores of
:mod:`~jaxdec.attention.sparse.vertical_slash`, which sum to 1, sorted in descending order,

    n_columns = max(min_budget, #{i: column_(1) + ... + column_(i) <= alpha} + 1)

and likewise for the diagonals; each head of each prompt has its own two sizes. They are taken before sinks and the local window
are put in front, as there. Sizes depend on data, so what is selected is a mask over ranks, in arrays of a static size.

The original is another method. It scores the last block of 128 queries, and also estimates what they look at from their mean
and the means of blocks of keys; heads where the two are close (the root of their Jensen-Shannon divergence is below ``tau``,
0.1) select block by block, for all queries, from such means. In the other heads, columns and diagonals are as wide as a
block, and as many as cover ``gamma``, 0.9 or more. None of this is here. In Nawrot et al.'s code ``min_budget`` may be smaller
than the local window, which is then not taken whole; here it is refused.
"""

import dataclasses

import jax.numpy as jnp

from jaxdec.attention.sparse.selection import PrefillRule, Selection
from jaxdec.attention.sparse.vertical_slash import (
    check_longer_than_window,
    check_window,
    last_query_scores,
    tiles_and_columns,
    top,
)
from jaxdec.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class FlexPrefill(PrefillRule):
    """Columns and diagonals that cover a share ``alpha`` of the last queries' attention.

    Attributes:
      alpha: share to cover, 0 to 1; 1 takes everything.
      min_budget: columns, and diagonals, at least; no less than ``sinks`` and ``local``.
      max_budget: columns, and diagonals, at most, a bound on memory and time; None for none.
      window: queries that are scored; all of a prompt that is not longer. At least 1.
      sinks: first columns that are always taken.
      local: nearest diagonals that are always taken, at least 1.
      tile: queries in a block, and keys in a tile. At least 1.
    """

    alpha: float = 0.65
    min_budget: int = 512
    max_budget: int | None = None
    window: int = 512
    sinks: int = 4
    local: int = 64
    tile: int = 64

    def __post_init__(self):
        check_window(self.window, self.sinks, self.local, self.tile)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1; got {self.alpha}")
        if self.min_budget < max(self.sinks, self.local):
            raise ValueError(
                f"min_budget must be at least sinks and local, {max(self.sinks, self.local)}; got {self.min_budget}"
            )
        if self.max_budget is not None and self.max_budget < self.min_budget:
            raise ValueError(f"max_budget must be at least min_budget, {self.min_budget}; got {self.max_budget}")

    def check_tokens(self, num_tokens: int):
        """Prompts must have room for more tokens than are scored."""
        check_longer_than_window(num_tokens, self.window)

    def select(self, q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""]) -> Selection:
        """Select for one prompt and one query head; ``q`` and ``k`` are 0 behind ``length``."""
        num_tokens = q.shape[0]
        most = num_tokens if self.max_budget is None else min(self.max_budget, num_tokens)
        column, slash = last_query_scores(q, k, length, self.window)
        return tiles_and_columns(
            top(column, length, self.sinks, self.budget(column), most),
            top(slash, length, self.local, self.budget(slash), most),
            length,
            self.tile,
            max_columns=most,
            max_slashes=most,
        )

    def budget(self, score: Float[Array, "T"]) -> Int[Array, ""]:
        """How many of the largest scores are taken."""
        covered = jnp.cumsum(jnp.sort(score, descending=True)) <= self.alpha
        covered |= self.alpha >= 1  # sums that round to more than 1
        return jnp.maximum(covered.sum() + 1, self.min_budget)

    def selecting_flops(self, num_tokens: int, num_heads: int, head_dim: int) -> int:
        """``2 w T E`` per query head."""
        return 2 * self.window * num_tokens * head_dim * num_heads
