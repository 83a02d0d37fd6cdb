"""The cache of a forward pass that sees whole texts at once: nothing is remembered, and everything is differentiable.

In training a text is fed in one pass, so the new tokens attend to one another and to nothing else. The decoding caches write
into buffers larger than the text, in loops that have no reverse derivative; this one attends to the new keys and values as
they are.
"""

import jax.numpy as jnp
from flax import struct

from jaxdec.attention.dense import SlotMask, dense_attention
from jaxdec.typing import Array, Bool, Float, Int


class SequenceCache(struct.PyTreeNode):
    """Keys and values of the layer at work.

    Attributes:
      length: committed entries per row: always 0.
      keys: of the new tokens; None before the first layer.
      values: of the new tokens.
    """

    length: Int[Array, "B"]
    keys: Float[Array, "B G T E"] | None = None
    values: Float[Array, "B G T E"] | None = None

    @classmethod
    def create(cls, batch_size: int) -> "SequenceCache":
        """The cache of ``batch_size`` texts."""
        return cls(jnp.zeros(batch_size, jnp.int32))

    @property
    def capacity(self) -> int:
        """Slots per row: those of the new tokens, whatever their number."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Causal among the new tokens, or ``visible``."""
        batch = self.length.shape[0]
        end = jnp.full(batch, num_new, jnp.int32)
        if visible is not None:
            return SlotMask(visible, end, causal=False)
        return SlotMask(jnp.broadcast_to(jnp.tri(num_new, dtype=bool), (batch, num_new, num_new)), end, causal=True)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SequenceCache":
        """Hold this layer's keys and values in place of the layer's before."""
        return self.replace(keys=keys.swapaxes(1, 2), values=values.swapaxes(1, 2))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SequenceCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Softmax attention among the new tokens."""
        assert self.keys is not None
        assert self.values is not None
        return dense_attention(queries, self.keys, self.values, mask, key_block=queries.shape[1])

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "SequenceCache":
        """Not possible.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("a SequenceCache remembers nothing: decode with the model's own init_cache")

    def fork(self, rows: Int[Array, "R"]) -> "SequenceCache":
        """Not possible.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("a SequenceCache remembers nothing: decode with the model's own init_cache")
