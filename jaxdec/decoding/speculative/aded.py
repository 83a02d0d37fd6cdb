"""ADED: drafts from a table of tri-grams that learns from what the target says.

Liu et al. 2025, "Adaptive Draft-Verification for Efficient Large Language Model Decoding" (arXiv 2407.12021, AAAI 2025; also
published as Adaptix). ``M[(a, b)][c]`` approximates the law of ``c`` behind ``a b``. One step, with the root chosen:

    update   for every tri-gram (a, b, c) among the text's last 16 tokens:  M[(a, b)][c] <- min(M[(a, b)][c] + 0.04, 3.0)
    search   a tree of likely continuations of the last two tokens in M
    verify   the tree, with the engine's exact rules

Windows of consecutive steps overlap, so that a tri-gram counts once for every step it stays in the window. The authors begin
with the end of the prompt; here (``learn_prompt``) the table first learns the whole prompt, as if it had been decoded token by
token, since texts that answer to a text copy from it. Two searches:

- ``best_first`` (ours, the default): the ``num_nodes`` continuations of largest ``prod p``, exactly: level by level, the best
  ``num_nodes`` of each level, then the best of all levels. ``p`` is the weight, divided by the sum of the pair's weights where
  that exceeds 1 (weights grow beyond 1 by updates).
- ``puct`` (the paper's): Monte-Carlo tree search, :mod:`jaxdec.decoding.speculative.puct`.

The table built beforehand is ``model.companions["trigram_table"]``; without one the search starts from nothing. What is learnt
stays in the drafter's state, one adaptive table per row, so that rows do not depend on each other;
``model.companions["adaptive_table"]`` is what all rows begin with, such as the state of an earlier text (:meth:`Aded.learnt`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.decoding.speculative import puct
from jaxdec.decoding.speculative.tree import ROOT, DraftTree
from jaxdec.decoding.speculative.trigram_table import TrigramTable, together
from jaxdec.typing import Array, Bool, Int, Key

TABLE, ADAPTIVE = "trigram_table", "adaptive_table"
SEARCHES = ("best_first", "puct")
DEFAULT_SETTINGS = puct.Settings()


class AdedState(struct.PyTreeNode):
    """What the rows have learnt.

    Attributes:
      adaptive: one small table per row.
      rng: a key per row, for the roll-outs of the tree search.
    """

    adaptive: TrigramTable
    rng: Key[Array, "B"]


@dataclasses.dataclass(frozen=True)
class Aded:
    """Tri-gram drafts.

    Attributes:
      num_nodes: nodes of the tree; the authors take 64.
      max_depth: tokens of a draft; the authors take 4.
      search: ``"best_first"`` or ``"puct"``.
      window: tokens that updates look at; 0 leaves the table as it is (the static arm).
      step: what an occurrence adds to a weight.
      cap: largest weight.
      learn_prompt: whether the table learns the prompt before the first step; False is the published method.
      capacity: places of each row's adaptive table, a power of two. Pairs that find no place there are not learnt.
      settings: of the tree search.
    """

    num_nodes: int = 16
    max_depth: int = 4
    search: str = "best_first"
    window: int = 16
    step: float = 0.04
    cap: float = 3.0
    learn_prompt: bool = True
    capacity: int = 4096
    settings: puct.Settings = DEFAULT_SETTINGS

    def __post_init__(self):
        for name in ("num_nodes", "max_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.window != 0 and self.window < 3:
            raise ValueError(f"window must be at least 3, a tri-gram, or 0 to learn nothing; got {self.window}")
        if not 0 < self.step <= self.cap:
            raise ValueError(f"step must be positive and at most cap ({self.cap}), got {self.step}")
        if self.search not in SEARCHES:
            raise ValueError(f"search must be one of {', '.join(SEARCHES)}, got {self.search!r}")
        if self.search == "puct" and self.max_depth < 2:
            raise ValueError(f"max_depth must be at least 2 for search 'puct', got {self.max_depth}")
        TrigramTable.empty(self.capacity, 1)

    @property
    def is_chain(self) -> bool:
        """Branches."""
        return False

    @property
    def is_read_only(self) -> bool:
        """Without a window nothing is learnt."""
        return self.window == 0

    def init(self, model, prompt) -> AdedState:
        """Begin with nothing learnt, or with what ``model.companions`` brings."""
        rows = prompt.tokens.shape[0]
        adaptive = model.companions.get(ADAPTIVE, TrigramTable.empty(self.capacity, model.vocab_size))
        for name, table in ((TABLE, self.table(model)), (ADAPTIVE, adaptive)):
            if table.vocab_size != model.vocab_size:
                raise ValueError(
                    f"companion {name!r} was built for a vocabulary of {table.vocab_size} tokens, the model has "
                    f"{model.vocab_size}"
                )
        if adaptive.pairs.shape != (self.capacity, 2):
            raise ValueError(
                f"companion {ADAPTIVE!r} has {adaptive.pairs.shape[0]} places, capacity is {self.capacity}"
            )
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), adaptive)
        if self.window and self.learn_prompt:
            copies = jax.vmap(self.learn)(copies, prompt.tokens, prompt.length)
        return AdedState(copies, jax.vmap(jax.random.fold_in, (0, None))(prompt.keys, 1 << 30))

    def table(self, model) -> TrigramTable:
        """The table built beforehand, or an empty one."""
        return model.companions.get(TABLE, TrigramTable.empty(64, model.vocab_size))

    def learnt(self, drafter_state: AdedState, row: int = 0) -> TrigramTable:
        """What a row has learnt, to begin the next text with."""
        return jax.tree.map(lambda leaf: leaf[row], drafter_state.adaptive)

    def propose(self, model, drafter_state: AdedState, text) -> tuple[DraftTree, AdedState]:
        """Learn from the last tokens, then search."""
        built = self.table(model)
        adaptive = drafter_state.adaptive
        if self.window:
            adaptive = jax.vmap(self.update)(adaptive, text.tokens, text.length, ~text.done)

        def draft(adaptive, key, tokens, length):
            pair = jnp.take(tokens, jnp.maximum(length - 2 + jnp.arange(2), 0))
            lookup: Any = lambda pair: together(built, adaptive, pair, self.cap)  # noqa: E731
            if self.search == "puct":
                key = jax.random.fold_in(key, length)
                found = puct.search(lookup, pair, key, self.num_nodes, self.max_depth, self.settings)
            else:
                found = best_first(lookup, pair, self.num_nodes, self.max_depth)
            tokens, parents, valid = found
            return tokens, parents, valid & (length >= 2)  # a single token has no pair

        tokens, parents, valid = jax.vmap(draft)(adaptive, drafter_state.rng, text.tokens, text.length)
        return DraftTree(tokens, parents, valid, valid), drafter_state.replace(adaptive=adaptive)

    def update(
        self, table: TrigramTable, tokens: Int[Array, "L"], length: Int[Array, ""], active: Bool[Array, ""]
    ) -> TrigramTable:
        """Add :attr:`step` to every tri-gram among the last :attr:`window` tokens of one row."""

        def add(index, table):
            start = length - self.window + index
            trigram = jnp.take(tokens, jnp.maximum(start + jnp.arange(3), 0))
            gain = jnp.where(active & (start >= 0), self.step, 0.0)
            return table.add(trigram[:2], trigram[2], gain)

        table = jax.lax.fori_loop(0, self.window - 2, add, table)
        return table.replace(weights=jnp.minimum(table.weights, self.cap))

    def learn(self, table: TrigramTable, tokens: Int[Array, "P"], length: Int[Array, ""]) -> TrigramTable:
        """Add every tri-gram of one prompt, as often as windows that end in the prompt hold it."""

        def add(start, table):
            windows = jnp.clip(length - start - 2, 0, self.window - 2)
            return table.add(jax.lax.dynamic_slice(tokens, (start,), (2,)), tokens[start + 2], self.step * windows)

        table = jax.lax.fori_loop(0, jnp.maximum(length - 2, 0), add, table)
        return table.replace(weights=jnp.minimum(table.weights, self.cap))

    def observe(self, model, drafter_state: AdedState, tree, verified, before, after) -> AdedState:
        """The text itself is looked at before the next search."""
        return drafter_state


def best_first(
    lookup: Any, pair: Int[Array, "2"], num_nodes: int, max_depth: int
) -> tuple[Int[Array, "N"], Int[Array, "N"], Bool[Array, "N"]]:
    """The ``num_nodes`` continuations of a pair with the largest ``prod p``: ``(tokens, parents, valid)``, best first.

    A node's score is at most its parent's, and of equal scores the shallower is taken first: the nodes form a tree, and so
    does any prefix of the list.
    """
    pairs, scores, index = pair[None], jnp.zeros(1), jnp.full(1, ROOT, jnp.int32)
    levels: list[tuple[Array, Array, Array]] = []  # tokens, scores and parents (index over all levels) of each level
    for level in range(max_depth):
        tokens, weights = jax.vmap(lookup)(pairs)
        p = weights / jnp.maximum(weights.sum(1, keepdims=True), 1.0)
        candidates = scores[:, None] + jnp.where(p > 0, jnp.log(p), -jnp.inf)
        best, chosen = jax.lax.top_k(candidates.reshape(-1), min(num_nodes, candidates.size))
        origin = chosen // tokens.shape[1]
        token = tokens.reshape(-1)[chosen]
        levels.append((token, best, index[origin]))
        pairs = jnp.stack([pairs[origin, 1], token], axis=1)
        scores, index = best, (sum(len(t) for t, _, _ in levels[:level]) + jnp.arange(len(token))).astype(jnp.int32)
    token, score, parent = (jnp.concatenate(parts) for parts in zip(*levels))
    if len(token) < num_nodes:
        short = num_nodes - len(token)
        token, parent = jnp.pad(token, (0, short)), jnp.pad(parent, (0, short), constant_values=ROOT)
        score = jnp.pad(score, (0, short), constant_values=-jnp.inf)
    best, chosen = jax.lax.top_k(score, num_nodes)
    place = jnp.zeros(len(score), jnp.int32).at[chosen].set(jnp.arange(num_nodes, dtype=jnp.int32))
    valid = best > -jnp.inf
    above = parent[chosen]
    parents = jnp.where(valid & (above >= 0), place[jnp.maximum(above, 0)], ROOT)
    return jnp.where(valid, token[chosen], 0).astype(jnp.int32), parents.astype(jnp.int32), valid
