"""Contiguous layout: one fixed-capacity buffer per row, committed entries first."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.attention.dense import KEY_BLOCK, SlotMask, dense_attention_state
from jaxdec.attention.sparse.slots import write_slots
from jaxdec.typing import Array, Bool, Float, Int


class ContiguousCache(struct.PyTreeNode):
    """Keys and values in one array per layer, so that each layer's update happens in place under donation.

    Attributes:
      keys: per layer, ``[B, G, S, E]``.
      values: per layer, ``[B, G, S, E]``.
      length: committed entries per row.
    """

    keys: tuple[Float[Array, "B G S E"], ...]
    values: tuple[Float[Array, "B G S E"], ...]
    length: Int[Array, "B"]

    @classmethod
    def create(
        cls, *, num_layers: int, batch_size: int, capacity: int, num_kv_heads: int, head_dim: int, dtype: Any
    ) -> "ContiguousCache":
        """Return an empty cache; ``capacity`` is rounded up to whole blocks of attention.

        Raises:
          ValueError: a size below 1.
        """
        for name, size in [("num_layers", num_layers), ("batch_size", batch_size), ("capacity", capacity)]:
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        capacity = -(-capacity // KEY_BLOCK) * KEY_BLOCK
        shape = (batch_size, num_kv_heads, capacity, head_dim)
        return cls(
            keys=tuple(jnp.zeros(shape, dtype) for _ in range(num_layers)),
            values=tuple(jnp.zeros(shape, dtype) for _ in range(num_layers)),
            length=jnp.zeros(batch_size, jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.keys[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(array.nbytes for array in (*self.keys, *self.values))

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which slots each new token may read: all committed ones, and the new ones that ``visible`` allows."""
        return SlotMask.behind(self.length, self.capacity, num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "ContiguousCache":
        """Write one layer's new keys and values at ``length`` of each row."""
        return self.replace(
            keys=replaced(self.keys, layer, write_slots(self.keys[layer], keys.swapaxes(1, 2), self.length)),
            values=replaced(self.values, layer, write_slots(self.values[layer], values.swapaxes(1, 2), self.length)),
        )

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "ContiguousCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Dense attention over the slots that ``mask`` allows."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp."""
        return dense_attention_state(queries, self.keys[layer], self.values[layer], mask)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "ContiguousCache":
        """Move the entries of ``path`` behind ``length`` and advance it by ``count``."""
        advanced = self.replace(length=self.length + count)
        if path is None:
            return advanced

        def move(buffer):
            chosen = jnp.take_along_axis(buffer, (self.length[:, None] + path)[:, None, :, None], axis=2)
            return write_slots(buffer, chosen, self.length)  # entries past count land in unused slots

        return advanced.replace(keys=tuple(map(move, self.keys)), values=tuple(map(move, self.values)))

    def fork(self, rows: Int[Array, "R"]) -> "ContiguousCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)


def replaced(layers: tuple, index: int, value: Any) -> tuple:
    """The layers with another one at an index."""
    return (*layers[:index], value, *layers[index + 1 :])
