"""Weighted layout: a contiguous cache whose entries may stand for several tokens each.

An entry that replaces ``m`` tokens of equal keys has an ``m``-th of their weight in the softmax. With the logarithm added,

    score_j = q . k_j / sqrt(E) + log m_j

it has all of it, and the attention is exactly that over the ``m`` tokens, with the mean of their values. (The same correction
for merged tokens of vision transformers: "proportional attention", Bolya et al. 2022, arXiv 2210.09461.) Entries of one ``m``
are attended to together and the results merged with ``log m`` added to their log-sum-exp.
"""

import math

import jax
from flax import struct

from jaxdec.attention.dense import SlotMask
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.merge import merge


class WeightedCache(struct.PyTreeNode):
    """A contiguous cache and the number of tokens that each entry stands for. New entries stand for themselves.

    Attributes:
      entries: keys and values.
      mass: tokens of each entry; 1 behind ``entries.length``.
      masses: the numbers there are; one pass of attention each.
    """

    entries: ContiguousCache
    mass: Int[Array, "B S"]
    masses: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row, however many tokens they stand for."""
        return self.entries.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.entries.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held, and of the masses."""
        return self.entries.nbytes + self.mass.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which slots each new token may read: all committed ones, and the new ones that ``visible`` allows."""
        return self.entries.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "WeightedCache":
        """Write one layer's new keys and values behind what was committed."""
        return self.replace(entries=self.entries.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "WeightedCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Attention with the scores raised."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp."""
        states = []
        for mass in self.masses:
            # A query without any entry of this mass gets a finite output of no weight: its log-sum-exp is near -1e30.
            mine = mask.replace(allowed=mask.allowed & (self.mass == mass)[:, None])
            out, lse = self.entries.attention_state(layer, queries, mine)
            states.append((out, lse + math.log(mass)))
        return merge(states)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "WeightedCache":
        """Move the entries of ``path`` behind ``length`` and advance it; pooled entries are not forgotten."""
        return self.replace(entries=self.entries.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "WeightedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)
