"""Prompts that are fed in one pass and read what a prefill rule selects; the entries then go on in another layout."""

import jax
from flax import struct

from jaxdec.attention.sparse.gathered import sparse_attention
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int


class RuledPrompt(struct.PyTreeNode):
    """A contiguous cache while whole prompts pass through the model.

    Attributes:
      entries: keys and values; nothing is committed before the prompts are.
      prompt_length: tokens of each prompt.
      rule: what they read.
    """

    entries: ContiguousCache
    prompt_length: Int[Array, "B"]
    rule: PrefillRule = struct.field(pytree_node=False)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.entries.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.entries.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self.entries.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> None:
        """The rule says what is read.

        Raises:
          ValueError: new tokens that are to see each other in another way.
        """
        if visible is not None:
            raise ValueError("visible must be None while prompts are fed under a rule")

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "RuledPrompt":
        """Write one layer of the prompts."""
        return self.replace(entries=self.entries.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "RuledPrompt":
        """The rule sees queries when they attend."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: None) -> Float[Array, "B T H E"]:
        """Attention of whole prompts to what the rule selects; 0 behind them."""
        keys, values = (
            side[layer][:, :, : queries.shape[1]].swapaxes(1, 2) for side in (self.entries.keys, self.entries.values)
        )
        return sparse_attention(queries.astype(keys.dtype), keys, values, self.prompt_length, self.rule)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "RuledPrompt":
        """Advance ``length``."""
        return self.replace(entries=self.entries.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "RuledPrompt":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)
