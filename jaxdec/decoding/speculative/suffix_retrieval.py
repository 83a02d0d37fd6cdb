"""Retrieval: look the end of the text up in a collection, and guess what followed it there.

He et al. 2023, "REST: Retrieval-Based Speculative Decoding" (arXiv 2311.08252). For suffix lengths ``max_suffix`` down to
``min_suffix`` the first that occurs in the collection is taken (all are searched at once, by bisection in the suffix array).
Of its occurrences up to ``max_matches`` are taken at equal distances; every beginning of their continuations is a node of a
tree, counted by how many of them begin so, and the ``num_nodes`` most frequent ones are kept (shallower first where counts are
equal).

The continuations of one suffix lie in order in the suffix array, so that equal beginnings are neighbours: counting them is a
comparison with the neighbour and a sum.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.decoding.speculative.datastore import ORDERED, Datastore
from jaxdec.decoding.speculative.tree import ROOT, DraftTree
from jaxdec.typing import Array, Bool, Int

COMPANION = "datastore"


@dataclasses.dataclass(frozen=True)
class SuffixRetrieval:
    """Guess from ``model.companions["datastore"]``.

    Attributes:
      num_nodes: nodes of the tree; the authors take 64.
      max_depth: tokens of each continuation; the authors take 10.
      max_suffix: longest suffix looked up; the authors take 16.
      min_suffix: shortest; the authors take 2.
      max_matches: occurrences looked at; the authors take up to 5000, the first ones.
    """

    num_nodes: int = 16
    max_depth: int = 8
    max_suffix: int = 16
    min_suffix: int = 2
    max_matches: int = 64

    def __post_init__(self):
        for name in ("num_nodes", "max_depth", "min_suffix", "max_matches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_suffix < self.min_suffix:
            raise ValueError(f"max_suffix must be at least min_suffix ({self.min_suffix}), got {self.max_suffix}")
        if self.max_suffix > ORDERED:
            raise ValueError(
                f"max_suffix must be at most {ORDERED}, by which datastores are ordered, got {self.max_suffix}"
            )
        if self.num_nodes > self.max_matches * self.max_depth:
            most = self.max_matches * self.max_depth
            raise ValueError(f"num_nodes must be at most max_matches * max_depth ({most}), got {self.num_nodes}")

    @property
    def is_chain(self) -> bool:
        """Branches."""
        return False

    @property
    def is_read_only(self) -> bool:
        """The collection alone is read."""
        return True

    def init(self, model, prompt) -> None:
        """Check that the collection is there and fits the model."""
        datastore = model.companions.get(COMPANION)
        if datastore is None:
            raise ValueError("suffix_retrieval needs a datastore: build one with python -m experiments.datastore")
        if datastore.vocab_size != model.vocab_size:
            raise ValueError(
                f"the datastore was built for a vocabulary of {datastore.vocab_size} tokens, the model has {model.vocab_size}"
            )
        return None

    def propose(self, model, drafter_state: None, text) -> tuple[DraftTree, None]:
        """Find the longest suffix that occurs, and the most frequent beginnings of what followed."""
        datastore: Datastore = model.companions[COMPANION]

        def of_row(tokens, length):
            return self.most_frequent(self.continuations(datastore, *self.find(datastore, tokens, length)))

        tokens, parents, valid = jax.vmap(of_row)(text.tokens, text.length)
        return DraftTree(tokens, parents, valid, valid), None

    def observe(self, model, drafter_state: None, tree, verified, before, after) -> None:
        """The collection does not change."""
        return None

    def find(self, datastore: Datastore, tokens: Int[Array, "L"], length: Int[Array, ""]):
        """Range ``(first, count)`` of the longest suffix in the suffix array, and the suffix's length (0: none occurs)."""
        sizes = jnp.arange(self.max_suffix, self.min_suffix - 1, -1)
        index = length - sizes[:, None] + jnp.arange(self.max_suffix)  # each suffix from its start
        suffixes = jnp.take(tokens, jnp.clip(index, 0, tokens.shape[0] - 1))
        inside = jnp.arange(self.max_suffix) < sizes[:, None]
        capacity = datastore.tokens.shape[0]

        # Both ends of every range in one loop: on a CPU it is the number of operations that costs.
        include_equal = jnp.array([[False], [True]])

        def below(position: Int[Array, "2 S"]) -> Bool[Array, "2 S"]:
            """Whether the text at a place of the suffix array comes before each suffix."""
            start = jnp.take(datastore.suffixes, position)[..., None] + jnp.arange(self.max_suffix)
            here = jnp.where(start < capacity, jnp.take(datastore.tokens, jnp.minimum(start, capacity - 1)), -2)
            differs = (here != suffixes) & inside
            where = jnp.argmax(differs, axis=2)[..., None]
            wanted = jnp.broadcast_to(suffixes, here.shape)
            less = (jnp.take_along_axis(here, where, 2) < jnp.take_along_axis(wanted, where, 2))[..., 0]
            return jnp.where(differs.any(2), less, include_equal)

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) // 2
            go_right = below(jnp.minimum(middle, capacity - 1)) & (low < high)
            return jnp.where(go_right, middle + 1, low), jnp.where(go_right | (low >= high), high, middle)

        bounds = (jnp.zeros((2, len(sizes)), sizes.dtype), jnp.full((2, len(sizes)), capacity, sizes.dtype))
        first, end = jax.lax.fori_loop(0, max(1, capacity.bit_length()), halve, bounds)[0]
        found = (end > first) & (sizes <= length)
        best = jnp.argmax(found)  # sizes fall
        some = found.any()
        return (
            first[best].astype(jnp.int32),
            jnp.where(some, end[best] - first[best], 0).astype(jnp.int32),
            jnp.where(some, sizes[best], 0).astype(jnp.int32),
        )

    def continuations(
        self, datastore: Datastore, first: Int[Array, ""], count: Int[Array, ""], size: Int[Array, ""]
    ) -> Int[Array, "R A"]:
        """What followed up to ``max_matches`` occurrences, in order; -1 behind the end of a text."""
        picks = jnp.arange(self.max_matches)
        spread = jnp.where(count > self.max_matches, picks * count // self.max_matches, picks)
        capacity = datastore.tokens.shape[0]
        place = jnp.minimum(first + jnp.minimum(spread, jnp.maximum(count - 1, 0)), capacity - 1)
        index = jnp.take(datastore.suffixes, place)[:, None] + size + jnp.arange(self.max_depth)
        tokens = jnp.where(index < capacity, jnp.take(datastore.tokens, jnp.minimum(index, capacity - 1)), -1)
        real = jnp.cumprod(tokens >= 0, axis=1).astype(bool) & (picks < count)[:, None]
        return jnp.where(real, tokens, -1)

    def most_frequent(
        self, continuations: Int[Array, "R A"]
    ) -> tuple[Int[Array, "N"], Int[Array, "N"], Bool[Array, "N"]]:
        """The ``num_nodes`` most frequent beginnings of ordered continuations: ``(tokens, parents, valid)``.

        Node ``(r, d)`` stands for the first ``d + 1`` tokens of continuation ``r``, if no earlier one begins so.
        """
        rows, depth = continuations.shape
        equal = jnp.pad(continuations[1:] == continuations[:-1], ((1, 0), (0, 0)))
        begins = ~jnp.cumprod(equal, axis=1).astype(bool)  # a new beginning
        row = jnp.arange(rows)[:, None]
        owner = jax.lax.cummax(jnp.where(begins, row, 0), axis=0)
        following = jax.lax.cummin(jnp.where(begins, row, rows), axis=0, reverse=True)
        following = jnp.concatenate([following[1:], jnp.full((1, depth), rows)], axis=0)  # where the next one begins
        count = jnp.where(begins & (continuations >= 0), following - row, 0)
        # More occurrences first, then shallower: a parent precedes its children, and any prefix of the list is a tree.
        level = jnp.arange(depth)
        order = jnp.where(count > 0, count * depth + (depth - 1 - level), -1)
        best, index = jax.lax.top_k(order.reshape(-1), self.num_nodes)
        node = jnp.zeros(rows * depth, jnp.int32).at[index].set(jnp.arange(self.num_nodes, dtype=jnp.int32))
        r, d = jnp.divmod(index, depth)
        parent = node[owner[r, jnp.maximum(d - 1, 0)] * depth + jnp.maximum(d - 1, 0)]
        valid = best >= 0
        tokens = jnp.where(valid, continuations[r, d], 0)
        return tokens.astype(jnp.int32), jnp.where(valid & (d > 0), parent, ROOT).astype(jnp.int32), valid
