"""Bi-level layout: every chunk of a prompt once dense and once pooled; for a question, relevant chunks dense, others pooled.

Video-XL-2. Qin et al., 2025, arXiv 2506.19225, from the code of the authors. Behind a prefix the prompt is chunks of groups,
which begin with marker tokens (:mod:`jaxdec.attention.sparse.chunked_prefill`). The pooled version of a group of ``g`` tokens
keeps its markers and has one entry for each window of ``c`` tokens behind them: the means ``K~``, ``V~`` of their values and
of their keys without rotation (:mod:`jaxdec.cache.pooled_chunks`). The last window of a group has what is left, so that nothing
is lost; a chunk of ``n`` groups has ``n (marker + ceil((g - marker) / c))`` entries. For a question

    cache = prefix, then chunk by chunk K, V or K~, V~;  n' entries, key j rotated by R(j),  the question at n', n' + 1, ...

The first and the last chunk are always dense. Where the backend has it, the dense version lies in pinned host memory, one array
per chunk, and only the chunks that a question needs are brought back: bit by bit what they were.

The authors keep keys without rotation; here dense keys stay as the model made them, and the difference of two rotations is
applied where an entry moves. An entry that stays in its place is not touched. Not in the paper, as options: entries that keep
their places in the prompt (:meth:`BilevelCache.assemble`), and scores of pooled keys raised by the logarithm of the number of
tokens they stand for (:class:`jaxdec.cache.weighted.WeightedCache`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.attention.dense import KEY_BLOCK
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.cache.pooled_chunks import BilevelLayout, Entries, Rotation, both_versions, turn
from jaxdec.cache.weighted import WeightedCache
from jaxdec.typing import Array, Bool, Int
from pallas_kernels.arguments import concrete

CHUNKS_AT_A_TIME = 4  # numbers of dense chunks are rounded up to this, so that few are compiled
HOST = "pinned_host"


class BilevelCache(struct.PyTreeNode):
    """Two versions of prompts that were fed. Not a cache to decode with: :meth:`assemble` gives those, one per question.

    Rows may have other lengths and other numbers of chunks, and choose for themselves.

    Attributes:
      prefix: what lies before the chunks.
      dense: per chunk, on the host if it can be.
      pooled: all chunks, one after another.
      length: tokens of each prompt.
      layout: how they were cut.
      rotation: of the model.
    """

    prefix: Entries
    dense: tuple[Entries, ...]
    pooled: Entries
    length: Int[Array, "B"]
    layout: BilevelLayout = struct.field(pytree_node=False)
    rotation: Rotation = struct.field(pytree_node=False)

    @classmethod
    def of_prompt(
        cls, prompt: ContiguousCache, layout: BilevelLayout, rotation: Rotation, *, offload: bool = True
    ) -> "BilevelCache":
        """Both versions of prompts that are committed.

        Args:
          prompt: nothing but the prompts; what lies behind them may be NaN.
          layout: how to cut them.
          rotation: that of the model which made the keys.
          offload: whether the dense version goes to the host's memory, where the backend can have it there.

        Raises:
          ValueError: a prompt without a chunk, or lengths that are not known yet (under jit).
        """
        length = concrete(prompt.length)
        if length is None:
            raise ValueError("prompt.length must be known: call this outside of jit")
        if (length <= layout.prefix).any():
            raise ValueError(f"prompts must be longer than the prefix of {layout.prefix} tokens; got {length.min()}")
        num_chunks = layout.num_chunks(int(length.max()))
        prefix, dense, pooled = both_versions(layout, rotation, num_chunks, prompt.keys, prompt.values, prompt.length)
        return cls(prefix, jax.tree.map(to_host, dense) if offload else dense, pooled, prompt.length, layout, rotation)

    @property
    def num_chunks(self) -> Int[Array, "B"]:
        """Chunks of each row."""
        return -(-(self.length - self.layout.prefix) // self.layout.chunk)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values of both versions."""
        return self.pooled_nbytes + sum(chunk.nbytes for chunk in self.dense)

    @property
    def pooled_nbytes(self) -> int:
        """Bytes of what always lies on the device: prefix and pooled version."""
        return self.prefix.nbytes + self.pooled.nbytes

    def made_dense(self, chosen: Bool[Array, "B N"]) -> np.ndarray:
        """The chosen chunks, with the first and the last of each row.

        Raises:
          ValueError: another shape, a chunk behind a row's last, or choices that are not known yet (under jit).
        """
        shape = (self.length.shape[0], len(self.dense))
        if chosen.shape != shape:
            raise ValueError(f"chosen must have shape {list(shape)}, rows and chunks; got {list(chosen.shape)}")
        known = concrete(chosen)
        if known is None:
            raise ValueError("chosen must be known: call this outside of jit")
        count = np.asarray(self.num_chunks)
        outside = np.argwhere(known & (np.arange(shape[1]) >= count[:, None]))
        if len(outside):
            row, chunk = outside[0]
            raise ValueError(f"chosen must lie within the chunks; row {row} of {count[row]} chunks has chunk {chunk}")
        ends = (np.arange(shape[1]) == 0) | (np.arange(shape[1]) == count[:, None] - 1)
        return known | ends

    def assembled_length(self, chosen: Bool[Array, "B N"]) -> np.ndarray:
        """Entries ``n'`` of each row, ``int[B]``, if these chunks are dense. For errors see :meth:`made_dense`."""
        return np.asarray(_order(self.layout, jnp.asarray(self.made_dense(chosen)), self.length)[1].sum(axis=1)) + (
            self.layout.prefix
        )

    def assemble(
        self, chosen: Bool[Array, "B N"], *, capacity: int, reposition: bool = True, log_mass: bool = False
    ) -> ContiguousCache | WeightedCache:
        """The cache for a question: chosen chunks dense, first and last too, the others pooled.

        Its ``length`` is ``n'``. The question is fed behind it, at positions ``n'`` and on; at ``self.length`` and on if
        entries keep their places.

        Args:
          chosen: chunks of each row that are relevant.
          capacity: slots of each row, for ``n'`` entries, the question and the answer; rounded up to whole blocks.
          reposition: entries are numbered ``0 .. n' - 1``. Otherwise they keep their places in the prompt, a window the one in
            its middle.
          log_mass: raise the scores of pooled keys by the logarithm of the number of their tokens.

        Raises:
          ValueError: see :meth:`made_dense`; a capacity that ``n'`` entries and one token do not fit in.
        """
        dense = self.made_dense(chosen)
        most = int(self.assembled_length(chosen).max())
        if capacity <= most:
            raise ValueError(f"capacity must be more than the {most} entries that are assembled; got {capacity}")
        capacity = -(-capacity // KEY_BLOCK) * KEY_BLOCK
        needed = np.flatnonzero(dense.any(axis=0))
        place = np.zeros(len(self.dense), np.int32)
        place[needed] = np.arange(len(needed))
        chunks = [jax.tree.map(self._to_device, self.dense[chunk]) for chunk in needed]
        chunks += [chunks[0]] * (-len(chunks) % CHUNKS_AT_A_TIME)
        keys, values, mass, length = _assemble(
            self.layout,
            self.rotation,
            capacity,
            reposition,
            (self.prefix, tuple(chunks), self.pooled),
            jnp.asarray(dense),
            jnp.asarray(place),
            self.length,
        )
        cache = ContiguousCache(keys, values, length)
        masses = tuple(sorted({1, *self.layout.entries[:, 1].tolist()}))
        return WeightedCache(cache, mass, masses) if log_mass else cache

    def _to_device(self, array: Array) -> Array:
        return jax.device_put(array, self.pooled.keys.sharding)


def to_host(array: Array) -> Array:
    """The array in pinned memory of the host, where its devices have that; else as it is."""
    kinds = [{memory.kind for memory in device.addressable_memories()} for device in array.sharding.device_set]
    if not all(HOST in kind for kind in kinds):
        return array
    return jax.device_put(array, array.sharding.with_memory_kind(HOST))


def _order(layout: BilevelLayout, dense: Bool[Array, "B N"], length: Int[Array, "B"]):
    """First slot and number of entries of each chunk, ``[B, N]`` each."""
    tokens = jnp.clip(length[:, None] - layout.prefix - layout.chunk * jnp.arange(dense.shape[1]), 0, layout.chunk)
    whole = jnp.where(tokens > 0, len(layout.entries), 0)  # the last chunk, which may not be full, is always dense
    size = jnp.where(dense, tokens, whole)
    return layout.prefix + jnp.cumsum(size, axis=1) - size, size


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _assemble(layout, rotation, capacity: int, reposition: bool, sources, dense, place, length):
    """Keys and values per layer, tokens that each entry stands for, and ``n'``."""
    prefix, chunks, pooled = sources
    start, size = _order(layout, dense, length)
    total = layout.prefix + size.sum(axis=1, dtype=jnp.int32)
    slot = jnp.arange(capacity, dtype=jnp.int32)
    chunk = (slot[:, None] >= start[:, None]).sum(axis=2) - 1  # [B, S]; -1 in the prefix
    in_prefix = chunk < 0
    chunk = jnp.maximum(chunk, 0)
    inside = slot - jnp.take_along_axis(start, chunk, axis=1)
    is_dense = jnp.take_along_axis(dense, chunk, axis=1)
    entry = jnp.clip(inside, 0, len(layout.entries) - 1)
    first, count = (jnp.asarray(column, jnp.int32)[entry] for column in layout.entries.T)
    mean = ~in_prefix & ~is_dense & (first % layout.tokens_in_group >= layout.marker)
    # Where the entry lies in prefix, chunks and pooled chunks laid side by side; its place in the prompt; its tokens.
    from_dense = layout.prefix + place[chunk] * layout.chunk + inside
    from_pooled = layout.prefix + len(chunks) * layout.chunk + chunk * len(layout.entries) + entry
    source = jnp.where(in_prefix, slot, jnp.where(is_dense, from_dense, from_pooled))
    own = layout.prefix + chunk * layout.chunk + jnp.where(is_dense, inside, first + (count - 1) // 2)
    own = jnp.where(in_prefix, slot, own).astype(jnp.int32)
    rotated_for = jnp.where(mean, 0, own)
    onto = jnp.broadcast_to(slot, own.shape) if reposition else own
    back, forth = rotation(rotated_for), rotation(onto)
    used = (slot < total[:, None])[:, None, :, None]
    stays = (rotated_for == onto)[:, None, :, None]

    def of_layer(layer):
        def side(name):
            parts = [getattr(part, name) for part in (layer[0], *layer[1], layer[2])]
            everything = jnp.concatenate(parts, axis=2)
            index = jnp.clip(source, 0, everything.shape[2] - 1)[:, None, :, None]
            return jnp.where(used, jnp.take_along_axis(everything, index, axis=2), 0)

        keys = side("keys")
        return jnp.where(stays, keys, turn(keys, back, forth).astype(keys.dtype)), side("values")

    keys, values = jax.lax.map(of_layer, (prefix, chunks, pooled))
    mass = jnp.where(mean & (slot < total[:, None]), count, 1).astype(jnp.int32)
    return tuple(keys), tuple(values), mass, total
