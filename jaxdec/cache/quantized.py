"""Quantised layout: the newest tokens in full precision, older ones in 8, 4 or 2 bits, block by block.

KIVI: Liu et al., 2024, arXiv 2402.02750 (keys per channel, values per token, a window of the newest tokens as they are). Of a
prompt, important tokens can keep more bits than the others, as in ZipVL (He et al., 2024, arXiv 2410.08584, first version) and
ZipCache (arXiv 2405.14256): two packed regions, merged with the window by log-sum-exp. Unlike there, values have no scale per
channel, and tokens that follow the prompt are all kept at the higher precision.

A row packs the oldest ``block`` tokens of its window as soon as at least ``window`` tokens stay behind. That happens at
:meth:`QuantizedCache.commit`, so that drafts are never packed, and what is packed never changes. Only tokens in full precision
can be forgotten again; after a commit that packs these are at least ``window``.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.attention.dense import SlotMask
from jaxdec.attention.sparse.kv_quantization import BLOCK, PackedTokens
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.arguments import concrete
from pallas_kernels.merge import merge


class QuantizedCache(struct.PyTreeNode):
    """Packed tokens and a window of the newest.

    Attributes:
      packed: per layer, at the higher precision or the only one.
      coarse: per layer, the unimportant tokens of prompts; empty if there is one precision.
      recent: the newest tokens, in full precision.
      window: tokens that stay in full precision at least.
      max_new: tokens of one forward pass at most.
    """

    packed: tuple[PackedTokens, ...]
    coarse: tuple[PackedTokens, ...]
    recent: ContiguousCache
    window: int = struct.field(pytree_node=False)
    max_new: int = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        *,
        num_layers: int,
        batch_size: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: Any,
        bits: int = 4,
        key_bits: int | None = None,
        window: int = 128,
        max_new: int = 128,
        block: int = BLOCK,
        key_group: int | None = None,
        channel_group: int | None = None,
        fitted: bool = False,
    ) -> "QuantizedCache":
        """Return an empty cache.

        Args:
          num_layers: layers.
          batch_size: rows.
          capacity: tokens per row that can be packed, rounded up to whole blocks.
          num_kv_heads: key/value heads.
          head_dim: width of one head.
          dtype: of the newest tokens.
          bits: 2, 4 or 8.
          key_bits: of keys, where they differ from those of values.
          window: newest tokens in full precision, at least; 0 or more.
          max_new: tokens of one forward pass at most.
          block: tokens packed at a time.
          key_group: tokens that share the range of a channel of the keys; see :meth:`PackedTokens.create` for the default.
          channel_group: channels of a value that share a range; likewise.
          fitted: ranges of least squared error, see :mod:`jaxdec.attention.sparse.kv_quantization`.

        Raises:
          ValueError: a size out of range, or one that does not divide ``block`` or ``head_dim``.
        """
        sizes = {"num_layers": num_layers, "batch_size": batch_size, "capacity": capacity, "max_new": max_new}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if window < 0:
            raise ValueError(f"window must be at least 0 tokens; got {window}")
        shape = {"batch_size": batch_size, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        coding = {
            "bits": bits,
            "key_bits": key_bits,
            "block": block,
            "key_group": key_group,
            "channel_group": channel_group,
        }
        region = {"num_tokens": capacity, "fitted": fitted, **coding, **shape}
        packed = tuple(PackedTokens.create(**region) for _ in range(num_layers))
        recent = ContiguousCache.create(
            num_layers=num_layers, capacity=window + block - 1 + max_new, dtype=dtype, **shape
        )
        return cls(packed, (), recent, window, max_new)

    @classmethod
    def of_prompt(
        cls,
        prompt: ContiguousCache,
        *,
        important: Sequence[Bool[Array, "B S"]] | None = None,
        coarse_bits: int | None = None,
        coarse_key_bits: int | None = None,
        coarse_capacity: int | None = None,
        capacity: int,
        bits: int = 4,
        key_bits: int | None = None,
        window: int = 128,
        max_new: int = 128,
        block: int = BLOCK,
        key_group: int | None = None,
        channel_group: int | None = None,
        fitted: bool = False,
    ) -> "QuantizedCache":
        """Pack prompts that are committed, all but the last ``window`` tokens of each.

        Args:
          prompt: nothing but the prompts.
          important: per layer, the tokens that keep ``bits``; None for all. The others get ``coarse_bits``.
          coarse_bits: fewer than ``bits``; given if and only if ``important`` is.
          coarse_key_bits: of their keys, where they differ from those of values.
          coarse_capacity: tokens per row that can be packed at ``coarse_bits`` (checked where they are known); by default as
            many as the prompt has slots.
          capacity: tokens per row that can be packed at ``bits``, those of the prompt included (checked where they are known).
          bits: see :meth:`create`.
          key_bits: see :meth:`create`.
          window: see :meth:`create`.
          max_new: see :meth:`create`.
          block: see :meth:`create`.
          key_group: see :meth:`create`.
          channel_group: see :meth:`create`.
          fitted: see :meth:`create`.

        Raises:
          ValueError: see :meth:`create`; ``important`` or ``coarse_bits`` alone; masks of another number or shape; too little
            capacity.
        """
        batch, num_kv_heads, slots, head_dim = prompt.keys[0].shape
        layers = len(prompt.keys)
        if (important is None) != (coarse_bits is None):
            raise ValueError(f"important and coarse_bits must be given together; got coarse_bits={coarse_bits}")
        if coarse_bits is not None and coarse_bits >= bits:
            raise ValueError(f"coarse_bits must be fewer than bits, {bits}; got {coarse_bits}")
        if important is not None and [mask.shape for mask in important] != [(batch, slots)] * layers:
            raise ValueError(
                f"important must have {layers} masks of shape {[batch, slots]}; got {[list(m.shape) for m in important]}"
            )
        shape = {"num_kv_heads": num_kv_heads, "head_dim": head_dim, "fitted": fitted}
        shape |= {"block": block, "key_group": key_group, "channel_group": channel_group}
        cache = cls.create(
            num_layers=layers,
            batch_size=batch,
            capacity=capacity,
            dtype=prompt.keys[0].dtype,
            bits=bits,
            key_bits=key_bits,
            window=window,
            max_new=max_new,
            **shape,
        )
        rest = jnp.maximum(prompt.length - window, 0)
        old = jnp.arange(slots) < rest[:, None]
        fine = [old] * layers if important is None else [old & mask for mask in important]
        _check_capacity("capacity", fine, capacity)
        packed = tuple(_pack(*layer) for layer in zip(cache.packed, prompt.keys, prompt.values, fine))
        coarse = ()
        if coarse_bits is not None:
            others = [old & ~mask for mask in fine]
            room = slots if coarse_capacity is None else coarse_capacity
            _check_capacity("coarse_capacity", others, room)
            region = PackedTokens.create(
                batch_size=batch, num_tokens=room, bits=coarse_bits, key_bits=coarse_key_bits, **shape
            )
            coarse = tuple(_pack(region, *layer) for layer in zip(prompt.keys, prompt.values, others))
        newest = jnp.minimum(rest[:, None] + jnp.arange(cache.recent.capacity), slots - 1)[:, None, :, None]
        keys, values = (
            tuple(jnp.take_along_axis(array, newest, axis=2) for array in side) for side in (prompt.keys, prompt.values)
        )
        recent = ContiguousCache(keys, values, prompt.length - rest)
        return cache.replace(packed=packed, coarse=coarse, recent=recent)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        regions = (self.packed[0], *self.coarse[:1])
        return sum((region.length for region in regions), self.recent.length)

    @property
    def capacity(self) -> int:
        """Tokens per row that can be packed and that stay in full precision; a prompt's coarse ones come on top of these."""
        first = self.packed[0]
        return first.used.shape[1] * first.block + self.window

    @property
    def nbytes(self) -> int:
        """Bytes of codes, ranges and the newest keys and values."""
        return self.recent.nbytes + sum(region.nbytes for region in (*self.packed, *self.coarse))

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which of the newest slots each new token may read. All may read all that is packed.

        Raises:
          ValueError: more new tokens than ``max_new``.
        """
        if num_new > self.max_new:
            raise ValueError(f"num_new must be at most max_new, {self.max_new}; got {num_new}")
        return self.recent.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "QuantizedCache":
        """Write one layer's new keys and values behind the newest tokens, in full precision."""
        return self.replace(recent=self.recent.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "QuantizedCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Attention to the packed tokens, merged with that to the newest."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp."""
        packed = [side[layer].attention_state(queries) for side in (self.packed, self.coarse) if side]
        return merge([*packed, self.recent.attention_state(layer, queries, mask)])

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "QuantizedCache":
        """Keep the entries of ``path``, then pack whole blocks that have left the window."""
        block = self.packed[0].block
        full = self.window + block

        def pack_one(cache: "QuantizedCache") -> "QuantizedCache":
            recent = cache.recent
            number = jnp.where(recent.length >= full, block, 0)
            packed = tuple(
                region.push(keys[:, :, :block], values[:, :, :block], number)
                for region, keys, values in zip(cache.packed, recent.keys, recent.values)
            )
            at = jnp.minimum(number[:, None] + jnp.arange(recent.capacity), recent.capacity - 1)[:, None, :, None]

            def shift(side):
                return tuple(jnp.take_along_axis(array, at, axis=2) for array in side)

            moved = ContiguousCache(shift(recent.keys), shift(recent.values), recent.length - number)
            return cache.replace(packed=packed, recent=moved)

        cache = self.replace(recent=self.recent.commit(path, count))
        return jax.lax.while_loop(lambda cache: (cache.recent.length >= full).any(), pack_one, cache)

    def fork(self, rows: Int[Array, "R"]) -> "QuantizedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)


def _pack(
    region: PackedTokens, keys: Float[Array, "B G S E"], values: Float[Array, "B G S E"], chosen: Bool[Array, "B S"]
) -> PackedTokens:
    """Pack the chosen tokens in their order into a region that is empty.

    A loop over blocks, and not over Python: a prompt of 16k tokens has 128 in each layer.
    """
    blocks, block = region.used.shape[1], region.block
    slots = keys.shape[2]
    order = jnp.argsort(~chosen, axis=1, stable=True)
    order = jnp.pad(order, ((0, 0), (0, -slots % block)), mode="edge")
    count = chosen.sum(axis=1, dtype=jnp.int32)
    blocks = min(blocks, order.shape[1] // block)  # no row has more than the region has room for

    def one(number: Int[Array, ""]) -> dict[str, Array]:
        at = jax.lax.dynamic_slice_in_dim(order, number * block, block, axis=1)[:, None, :, None]
        new_keys, new_values = (jnp.take_along_axis(side, at, axis=2) for side in (keys, values))
        return region.coded(new_keys, new_values, jnp.clip(count - number * block, 0, block))

    coded = jax.lax.map(one, jnp.arange(blocks, dtype=jnp.int32))
    coded = {
        name: getattr(region, name).at[:, :, :blocks].set(jnp.moveaxis(part, 0, 2)) for name, part in coded.items()
    }
    used = jnp.clip(count[:, None] - block * jnp.arange(blocks), 0, block)
    return region.replace(
        **coded,
        used=region.used.at[:, :blocks].set(used),
        blocks=(used > 0).sum(axis=1, dtype=jnp.int32),
    )


def _check_capacity(name: str, chosen: Sequence[Any], capacity: int):
    known = [mask for mask in map(concrete, chosen) if mask is not None]
    most = max((int(mask.sum(axis=1).max()) for mask in known), default=0)
    if most > capacity:
        raise ValueError(f"{name} must be at least the {most} tokens that are packed of a prompt; got {capacity}")
