"""Summarised layout: everything is kept, each page of keys summed up by its bounds, and Quest says which pages are read.

Quest: Tang et al., 2024, arXiv 2406.10774; see :mod:`jaxdec.attention.sparse.quest`. Summaries are taken of committed tokens,
so that drafts leave no trace. They cost two keys per page.

What has been committed is summed up by the next append, just before it is read. If a commit did so, behind what read the old
summaries, XLA would copy all of them at every step: it orders a read before a write by a copy, not by a schedule.
"""

import jax.numpy as jnp
from flax import struct

from jaxdec.attention.sparse.quest import PageSummary, Quest, quest_attention
from jaxdec.cache.contiguous import ContiguousCache, replaced
from jaxdec.typing import Array, Bool, Float, Int


class SummarisedCache(struct.PyTreeNode):
    """A contiguous cache and the bounds of its pages.

    Attributes:
      inner: keys and values.
      summaries: per layer, up to date from an append to the next commit.
      rule: which pages are read.
      max_new: tokens that are committed from one append to the next at most.
    """

    inner: ContiguousCache
    summaries: tuple[PageSummary, ...]
    rule: Quest = struct.field(pytree_node=False)
    max_new: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, inner: ContiguousCache, rule: Quest, max_new: int) -> "SummarisedCache":
        """Sum up what is committed.

        Raises:
          ValueError: pages that do not divide the capacity, ``max_new`` below 1.
        """
        if max_new < 1:
            raise ValueError(f"max_new must be at least 1, got {max_new}")
        return cls(inner, tuple(PageSummary.of(keys, rule.page_size) for keys in inner.keys), rule, max_new)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.inner.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.inner.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held, and of their bounds."""
        return self.inner.nbytes + sum(
            side.nbytes for summary in self.summaries for side in (summary.low, summary.high)
        )

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Bool[Array, "B T T"] | None:
        """Which new tokens each new token reads; which pages is decided layer by layer."""
        return visible

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SummarisedCache":
        """Write one layer's new keys and values behind the committed entries, and sum up what was committed last."""
        inner, before = self.inner.append(layer, keys, values), jnp.maximum(self.inner.length - self.max_new, 0)
        summary = self.summaries[layer].commit(inner.keys[layer], before, self.max_new)
        return self.replace(inner=inner, summaries=replaced(self.summaries, layer, summary))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SummarisedCache":
        """Pages are chosen where they are read."""
        return self

    def attend(
        self, layer: int, queries: Float[Array, "B T H E"], mask: Bool[Array, "B T T"] | None
    ) -> Float[Array, "B T H E"]:
        """Attention to the pages with the largest bounds, the page being filled, and the new tokens."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: Bool[Array, "B T T"] | None
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp."""
        inner = self.inner
        return quest_attention(
            queries, inner.keys[layer], inner.values[layer], inner.length, self.summaries[layer], self.rule, mask
        )

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "SummarisedCache":
        """Keep the entries of ``path``, or forget some."""
        return self.replace(inner=self.inner.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "SummarisedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return self.replace(
            inner=self.inner.fork(rows), summaries=tuple(summary.fork(rows) for summary in self.summaries)
        )
