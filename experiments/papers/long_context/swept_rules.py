"""Rules and their sizes for one length of prompts, and what they select as masks.

A sweep runs a small model under many sizes of a rule. As masks over dense attention all of them are one program, in which the
number of the rule is data; the project's tests hold the loops that save work to these same masks. Sizes follow the length: a
budget of ``S / C`` tokens, windows, sinks and pages a few tokens small.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.quest import Quest
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.attention.sparse.snapkv import SnapKV
from jaxdec.attention.sparse.vertical_slash import VerticalSlash, last_query_scores, top
from jaxdec.typing import Array, Bool, Float, Int

PREFILL = ("vertical_slash", "flex_prefill", "block_sparse")
DECODE = ("quest", "snapkv", "ada_snapkv")
METHODS = (*PREFILL, *DECODE)
DENSE = "dense"
SINKS, LOCAL, BLOCK, PAGE = 2, 4, 4, 4
SCORED = 32
"""Last queries that vertical-slash scores: question and answer."""
WINDOW = 8
"""Last queries that SnapKV scores: the question."""
FLEX_ALPHA = {2.0: 0.97, 4.0: 0.9, 8.0: 0.75, 16.0: 0.5}
"""Shares of attention to cover: what this computes depends on the text, and is measured."""


def rule_of(method: str, length: int, compression: float) -> Any:
    """The rule whose compression of prompts of ``length`` tokens is about ``compression``.

    Raises:
      ValueError: an unknown method, or a compression that no size of it has.
    """
    budget = max(round(length / compression), SINKS + LOCAL + 1)
    if method == "vertical_slash":
        # n columns have about n S / 2 cells, n diagonals somewhat less than n S
        count = max(round(length / (2.8 * compression)), LOCAL)
        return VerticalSlash(count, count, window=SCORED, sinks=SINKS, local=LOCAL, tile=1)
    if method == "flex_prefill":
        if compression not in FLEX_ALPHA:
            raise ValueError(f"compression must be one of {', '.join(map(str, FLEX_ALPHA))}; got {compression}")
        return FlexPrefill(FLEX_ALPHA[compression], LOCAL, window=SCORED, sinks=SINKS, local=LOCAL, tile=1)
    if method == "block_sparse":
        return BlockSparse.at_compression(compression, length, BLOCK)
    if method == "quest":
        return Quest(max(budget // PAGE, 1) * PAGE, PAGE)
    sizes = {"capacity": budget, "window": WINDOW, "kernel": 3, "sinks": SINKS, "local": LOCAL}
    if method == "snapkv":
        return SnapKV(**sizes)
    if method == "ada_snapkv":
        return AdaSnapKV(**sizes)
    raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")


def prompt_mask(
    rule: PrefillRule | None, q: Float[Array, "T H E"], k: Float[Array, "T G E"], length: Int[Array, ""]
) -> Bool[Array, "H T T"]:
    """What the queries of one prompt read; None is dense. All False in the rows behind ``length``."""
    num_tokens, num_heads = q.shape[:2]
    position = jnp.arange(num_tokens)
    used = (position <= position[:, None]) & (position < length)[:, None]
    if rule is None:
        return jnp.broadcast_to(used, (num_heads, num_tokens, num_tokens))
    if not isinstance(rule, VerticalSlash | FlexPrefill):
        return rule.mask(q[None], k[None], length[None])[0]
    assert rule.tile == 1  # the cells of the equations, not whole tiles

    def counts(column, slash):
        if isinstance(rule, FlexPrefill):
            return rule.budget(column), rule.budget(slash)
        return rule.vertical, rule.slash

    distance = jnp.clip(position[:, None] - position, 0)

    def of_head(index):
        column, slash = last_query_scores(q[:, index], k[:, index // (num_heads // k.shape[1])], length, rule.window)
        num_columns, num_slashes = counts(column, slash)
        columns = top(column, length, rule.sinks, num_columns, num_tokens)
        slashes = top(slash, length, rule.local, num_slashes, num_tokens)
        return (columns | slashes[distance]) & used

    return jax.lax.map(of_head, jnp.arange(num_heads))


@dataclasses.dataclass(frozen=True)
class Setting:
    """A rule in the sweep: a method at a nominal compression, 1 for dense."""

    method: str
    compression: float


def settings_of(methods: Sequence[str], compressions: Sequence[float]) -> list[Setting]:
    """Dense, then every method at every compression."""
    return [Setting(DENSE, 1.0), *(Setting(m, float(c)) for m in methods for c in compressions)]
