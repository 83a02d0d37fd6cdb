"""Evicted layout: of a prompt the kept tokens of each key/value head, then new tokens as usual.

What eviction rules such as :class:`jaxdec.attention.sparse.snapkv.SnapKV` keep differs between heads, in which tokens and in
how many. The kept tokens of all heads of a row lie one head after another in one array, so that heads share a budget without
any head paying for the largest. They are never changed. New tokens go to a contiguous cache behind them, and attention to the
two parts is merged by log-sum-exp. Keys are rotated already, so that tokens keep their positions whatever is forgotten between.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.attention.dense import KEY_BLOCK, SlotMask
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.arguments import concrete
from pallas_kernels.merge import merge
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles


class KeptTokens(struct.PyTreeNode):
    """What one layer keeps of the prompts.

    Attributes:
      keys: of all heads of a row, one head after another; ``N`` slots.
      values: of the same tokens.
      positions: of the same tokens, their slots in the prompt; rising within each head.
      start: first slot of each head.
      count: tokens of each head.
    """

    keys: Float[Array, "B N E"]
    values: Float[Array, "B N E"]
    positions: Int[Array, "B N"]
    start: Int[Array, "B G"]
    count: Int[Array, "B G"]

    @classmethod
    def of(
        cls, keys: Float[Array, "B G S E"], values: Float[Array, "B G S E"], keep: Bool[Array, "B G S"], room: int
    ) -> "KeptTokens":
        """Take the tokens of ``keep`` out of a contiguous layer; ``room`` is ``N``, which must suffice."""
        batch, num_kv_heads, capacity, width = keys.shape
        flat = keep.reshape(batch, -1)
        order = jnp.argsort(~flat, axis=1, stable=True)[:, :room]

        def take(side):
            return jnp.take_along_axis(side.reshape(batch, num_kv_heads * capacity, width), order[..., None], axis=1)

        count = keep.sum(axis=2, dtype=jnp.int32)
        start = jnp.cumsum(count, axis=1, dtype=jnp.int32) - count
        return cls(take(keys), take(values), (order % capacity).astype(jnp.int32), start, count)

    def attention_state(
        self, queries: Float[Array, "B T H E"]
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention of all queries to all kept tokens, and its log-sum-exp; ``(0, -inf)`` where nothing is kept."""
        batch, num_new, num_heads, width = queries.shape
        num_kv_heads, room = self.start.shape[1], self.keys.shape[1]
        dtype = jnp.promote_types(queries.dtype, jnp.float32)
        product_type = dtype if jax.default_backend() == "cpu" else self.keys.dtype  # two-byte products are slow there
        block = min(KEY_BLOCK, room)
        grouped = queries.reshape(batch, num_new, num_kv_heads, -1, width).transpose(0, 2, 1, 3, 4)
        grouped = grouped.reshape(batch, num_kv_heads, -1, width).astype(product_type)

        def of_head(index):
            row, head = index // num_kv_heads, index % num_kv_heads
            begin, count = self.start[row, head], self.count[row, head]

            def step(number, state: SoftmaxState) -> SoftmaxState:
                first = begin + number * block
                at = jnp.minimum(first, room - block)  # a last, shorter block overlaps what was read before
                slot = at + jnp.arange(block)
                used = (slot >= first) & (slot < begin + count)
                keys, values = (
                    jnp.where(used[:, None], jax.lax.dynamic_slice(side, (row, at, 0), (1, block, width))[0], 0)
                    for side in (self.keys, self.values)
                )
                keys, values = keys.astype(product_type), values.astype(product_type)
                precision = precision_of(product_type)
                scores = jnp.dot(grouped[row, head], keys.T, preferred_element_type=dtype, precision=precision)
                return fold(state, jnp.where(used, scores * width**-0.5, -jnp.inf), values)

            state = empty(grouped.shape[2], width, dtype)
            return finish(jax.lax.fori_loop(0, (count + block - 1) // block, step, state))

        out, lse = over_tiles(of_head, jnp.arange(batch * num_kv_heads))
        out = out.reshape(batch, num_kv_heads, num_new, -1, width).transpose(0, 2, 1, 3, 4)
        lse = lse.reshape(batch, num_kv_heads, num_new, -1).transpose(0, 2, 1, 3)
        return out.reshape(queries.shape), lse.reshape(batch, num_new, num_heads)

    def mask(self, num_slots: int) -> Bool[Array, "B G S"]:
        """Which of ``num_slots`` tokens of the prompts are kept: what :meth:`of` was given."""
        slot = jnp.arange(self.positions.shape[1])
        begin, count = self.start[..., None], self.count[..., None]
        mine = (slot >= begin) & (slot < begin + count)  # [B, G, N]
        hit = self.positions[..., None] == jnp.arange(num_slots)  # [B, N, S]
        return (mine[..., None] & hit[:, None]).any(axis=2)


class EvictedCache(struct.PyTreeNode):
    """Prompts of which every head keeps its own tokens, and what was committed since.

    Attributes:
      kept: per layer.
      recent: what follows the prompts.
      prompt_length: tokens of each prompt, the forgotten ones too.
    """

    kept: tuple[KeptTokens, ...]
    recent: ContiguousCache
    prompt_length: Int[Array, "B"]

    @classmethod
    def of_prompt(
        cls,
        prompt: ContiguousCache,
        keep: Sequence[Bool[Array, "B G S"]],
        *,
        capacity: int,
        room: int | None = None,
    ) -> "EvictedCache":
        """Keep the chosen tokens of prompts that are committed.

        Args:
          prompt: nothing but the prompts.
          keep: per layer, which slots each head keeps, within ``prompt.length``.
          capacity: slots per row for what follows, drafts included.
          room: slots for kept tokens per row and layer, for all heads together: at least what any row keeps in any layer
            (checked where ``keep`` is known; by default just that, which must then be known).

        Raises:
          ValueError: masks of another number or shape, masks of slots behind a prompt, too little room.
        """
        if len(keep) != len(prompt.keys):
            raise ValueError(f"keep must have one mask for each of {len(prompt.keys)} layers; got {len(keep)}")
        shape = prompt.keys[0].shape[:3]
        for layer, mask in enumerate(keep):
            if mask.shape != shape:
                raise ValueError(f"keep of layer {layer} must have shape {list(shape)}; got {list(mask.shape)}")
        room = _room(prompt, keep, room)
        pairs = zip(prompt.keys, prompt.values, keep)
        recent = ContiguousCache.create(
            num_layers=len(keep),
            batch_size=shape[0],
            capacity=capacity,
            num_kv_heads=shape[1],
            head_dim=prompt.keys[0].shape[3],
            dtype=prompt.keys[0].dtype,
        )
        return cls(tuple(KeptTokens.of(*layer, room) for layer in pairs), recent, prompt.length)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row, the forgotten ones included: the position of the next token."""
        return self.prompt_length + self.recent.length

    @property
    def capacity(self) -> int:
        """Slots that every row has for what follows its prompt."""
        return self.recent.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held, and of the kept tokens' positions."""
        kept = (array.nbytes for layer in self.kept for array in (layer.keys, layer.values, layer.positions))
        return self.recent.nbytes + sum(kept)

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which recent slots each new token may read. All may read all that is kept."""
        return self.recent.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "EvictedCache":
        """Write one layer's new keys and values behind what was committed."""
        return self.replace(recent=self.recent.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "EvictedCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Attention to the kept tokens, merged with that to the recent ones."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp."""
        recent = self.recent.attention_state(layer, queries, mask)
        return merge([self.kept[layer].attention_state(queries), recent])

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "EvictedCache":
        """Move the entries of ``path`` behind ``length`` and advance it; what follows the prompt can be forgotten again."""
        return self.replace(recent=self.recent.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "EvictedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)


def _room(prompt: ContiguousCache, keep: Sequence[Any], room: int | None) -> int:
    """Slots for kept tokens, checked against the masks and the lengths where these are known."""
    masks, length = [concrete(mask) for mask in keep], concrete(prompt.length)
    known = [mask for mask in masks if mask is not None]
    for layer, mask in enumerate(masks):
        if mask is not None and length is not None:
            ends = mask.any(axis=1) * np.arange(1, mask.shape[2] + 1)
            for row, end in enumerate(ends.max(axis=1)):
                if end > length[row]:
                    raise ValueError(
                        f"keep of layer {layer} must lie within the prompts; "
                        f"row {row} of {length[row]} tokens keeps slot {end - 1}"
                    )
    most = max((int(mask.sum(axis=(1, 2)).max()) for mask in known), default=0)
    if room is None:
        if len(known) < len(keep):
            raise ValueError("room must be given where keep is not known yet (under jit); got None")
        room = max(most, 1)
    if room < max(most, 1):
        raise ValueError(f"room must be at least the {max(most, 1)} tokens that a row keeps in a layer; got {room}")
    return room
