"""Shared-prefix layout: what rows have in common is kept once, and read once for all of them.

Hydragen: Juravsky et al. 2024, arXiv 2402.05099; several levels as in FlashInfer's cascade inference (Ye et al. 2025, arXiv
2501.01005). The text of a row is cut into segments: one of each level, shared with the rows beside it, and its own. Attention
over each is computed by itself, with its log-sum-exp, and merged (equations 4 and 5):

    lse = log sum_i e^(lse_i)      o = sum_i e^(lse_i - lse) o_i

``b`` rows with ``P`` shared and ``S`` own tokens hold, and read at every step, ``P + b S`` keys instead of ``b (P + S)``, and
the shared part is a product of matrices, not ``b`` products with a vector.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.attention.dense import SlotMask
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.cache.paged import PagedCache
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels import merge, prefix_attention

Span = tuple[int, int]


class PrefixLevel(struct.PyTreeNode):
    """Segments shared by neighbouring rows.

    Attributes:
      keys: per layer; ``N`` segments of at most ``P`` tokens.
      values: per layer.
      length: tokens of each segment; may be 0. What lies behind them is never read.
      spans: per segment, its first row and the row behind its last, in order and without overlap. A row in no span has nothing
        at this level.
    """

    keys: tuple[Float[Array, "N P G E"], ...]
    values: tuple[Float[Array, "N P G E"], ...]
    length: Int[Array, "N"]
    spans: tuple[Span, ...] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, cache: ContiguousCache, spans: tuple[Span, ...], width: int) -> "PrefixLevel":
        """The committed entries of a cache, at most ``width`` per row, as segments: row ``n`` becomes that of ``spans[n]``."""
        width = min(width, cache.capacity)

        def segments(buffers):
            return tuple(buffer[:, :, :width].swapaxes(1, 2) for buffer in buffers)

        return cls(segments(cache.keys), segments(cache.values), cache.length, spans)

    def row_length(self, num_rows: int) -> Int[Array, "B"]:
        """Tokens that each row has at this level."""
        owner = np.full(num_rows, len(self.spans))
        for segment, (begin, end) in enumerate(self.spans):
            owner[begin:end] = segment
        return jnp.pad(self.length, (0, 1))[owner]

    def attend(self, layer: int, queries: Float[Array, "B T H E"]):
        """Attention of all rows over their segments, and its log-sum-exp: ``[B, T, H, E]`` and ``[B, T, H]``.

        Every new token sees the whole segment, which lies before it.
        """
        batch, num_new, num_heads, head_dim = queries.shape
        offsets = np.cumsum([0, *(end - begin for begin, end in self.spans)])
        covered = np.concatenate([np.arange(begin, end) for begin, end in self.spans])
        everywhere = len(covered) == batch
        rows = queries if everywhere else queries[covered]
        out, lse = prefix_attention(
            rows.reshape(-1, num_heads, head_dim).astype(self.keys[layer].dtype),
            self.keys[layer],
            self.values[layer],
            kv_lengths=self.length,
            query_offsets=offsets * num_new,
        )
        out, lse = out.reshape(-1, num_new, num_heads, head_dim), lse.reshape(-1, num_new, num_heads)
        if everywhere:
            return out, lse
        nothing = jnp.zeros((batch, *out.shape[1:]), out.dtype), jnp.full((batch, *lse.shape[1:]), -jnp.inf, lse.dtype)
        return nothing[0].at[covered].set(out), nothing[1].at[covered].set(lse)

    def repeated(self, times: int) -> "PrefixLevel":
        """The level when every row is repeated in place."""
        return self.replace(spans=tuple((begin * times, end * times) for begin, end in self.spans))


class SharedPrefixCache(struct.PyTreeNode):
    """Levels of shared segments, which never change, and a cache for what each row has of its own.

    Attributes:
      levels: from the beginning of the texts on.
      own: the last segment of every row, to which new tokens are appended.
    """

    levels: tuple[PrefixLevel, ...]
    own: ContiguousCache | PagedCache

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row, shared ones included."""
        return self.own.length + self.shared_length

    @property
    def shared_length(self) -> Int[Array, "B"]:
        """Of which shared."""
        rows = self.own.length.shape[0]
        return sum((level.row_length(rows) for level in self.levels), jnp.zeros(rows, self.own.length.dtype))

    @property
    def capacity(self) -> int:
        """Slots that every row has of its own: the shared ones are full."""
        return self.own.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        levels = (array.nbytes for level in self.levels for array in (*level.keys, *level.values))
        return self.own.nbytes + sum(levels)

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which of its own slots each new token may read; of the shared ones it reads all."""
        return self.own.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SharedPrefixCache":
        """Write one layer's new keys and values behind each row's own entries."""
        return self.replace(own=self.own.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SharedPrefixCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Attention over all segments, merged."""
        own = self.own.attention_state(layer, queries, mask)
        return merge([*(level.attend(layer, queries) for level in self.levels), own])[0].astype(own[0].dtype)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "SharedPrefixCache":
        """Keep new entries, or forget own ones; shared entries cannot be forgotten."""
        return self.replace(own=self.own.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "SharedPrefixCache":
        """Copy what rows have of their own: row ``r`` of the result continues row ``rows[r]``.

        Segments are not copied, so each row must stay within its span: with as many rows as before, a row may take over only
        from a row that has the same segments, as the beams of one prompt do; with a multiple, every row is repeated in place.

        Raises:
          ValueError: another number of rows.
        """
        times, rest = divmod(rows.shape[0], self.own.length.shape[0])
        if rest or not times:
            raise ValueError(
                f"rows must be a multiple of the {self.own.length.shape[0]} rows there are; got {rows.shape[0]}"
            )
        return self.replace(own=self.own.fork(rows), levels=tuple(level.repeated(times) for level in self.levels))

    def unshared(self) -> ContiguousCache:
        """The same entries with every row's text in one piece: what this layout saves."""
        own = self.own if isinstance(self.own, ContiguousCache) else self.own.contiguous()
        rows = own.length.shape[0]
        pieces = [(level, level.row_length(rows)) for level in self.levels]
        width = sum(level.keys[0].shape[1] for level in self.levels) + own.capacity
        empty = ContiguousCache.create(
            num_layers=len(own.keys),
            batch_size=rows,
            capacity=width,
            num_kv_heads=own.keys[0].shape[1],
            head_dim=own.keys[0].shape[3],
            dtype=own.keys[0].dtype,
        )

        def place(cache: ContiguousCache, keys: Any, values: Any, count: Int[Array, "B"]) -> ContiguousCache:
            for layer, (key, value) in enumerate(zip(keys, values)):
                cache = cache.append(layer, key, value)
            return cache.commit(None, count)

        for level, count in pieces:
            owner = np.zeros(rows, int)
            for segment, (begin, end) in enumerate(level.spans):
                owner[begin:end] = segment
            keys, values = ([buffer[owner] for buffer in side] for side in (level.keys, level.values))
            empty = place(empty, keys, values, count)
        keys, values = ([buffer.swapaxes(1, 2) for buffer in side] for side in (own.keys, own.values))
        return place(empty, keys, values, own.length)
