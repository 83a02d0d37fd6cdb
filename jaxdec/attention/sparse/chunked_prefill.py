"""Chunked prefill: dense within a chunk and to the chunks just before it, marker tokens as the only long way.

Video-XL-2. Qin et al., 2025, arXiv 2506.19225, from the code of the authors (VectorSpaceLab/Video-XL, folder Video-XL-2). A
prompt of ``L`` tokens is a prefix, chunks, and a suffix. A chunk is some groups of tokens (there: four groups of frames), and a
group begins with marker tokens (there: the text "Time 12s:"). With ``i(t) = t - prefix``,

    suffix(t) = t >= L - suffix                                       the question, which reads all
    global(t) = t < prefix  or  i(t) mod group < marker               read all, and are read by all
    mask[t, j] = j <= t  and  (suffix(t) or global(t) or global(j) or i(t) // chunk - i(j) // chunk <= previous)

Information from further back reaches a token through markers, which have read all of it, and through layers. With
``previous + 1`` chunks there is nothing further back and the mask is dense. The last chunk need not be full.

The authors add a mask to dense attention, which saves nothing. Here blocks of queries gather what they read: the window of
chunks in tiles; the prefix, and the markers before the window, one by one. A block that has a marker or a token of the suffix
gathers everything, and :meth:`ChunkedPrefill.reads` then takes from each query what it may not read. What is computed is thus
more than the mask, by about ``block / group`` of all causal cells.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxdec.attention.sparse.selection import PrefillRule, Selection
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class ChunkedPrefill(PrefillRule):
    """Chunks that read the ``previous`` ones before them, the prefix and all markers.

    Attributes:
      chunk: tokens in a chunk, markers included; whole groups.
      previous: chunks before its own that a token reads, at least 0.
      prefix: tokens before the first chunk.
      marker: global tokens that each group begins with; 0 for none.
      suffix: last tokens of each prompt, which read everything; 0 for prompts that are chunks to their end.
      group: tokens in a group, markers included; by default a chunk is one group.
      block: queries that are computed together, at least 1. Changes nothing but the cost.
    """

    chunk: int = 512
    previous: int = 3
    prefix: int = 0
    marker: int = 0
    suffix: int = 0
    group: int | None = None
    block: int = 32

    def __post_init__(self):
        check_chunks(self.chunk, self.prefix, self.marker, self.group)
        for name in ("previous", "suffix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0; got {getattr(self, name)}")
        if self.block < 1:
            raise ValueError(f"block must be at least 1 token; got {self.block}")

    def check_tokens(self, num_tokens: int):
        """Any number of tokens will do."""

    def reads(self, queries: Int[Array, "*t"], keys: Int[Array, "*j"], length: Int[Array, ""]) -> Bool[Array, "*cells"]:
        """The mask, cell by cell."""
        far = (queries - self.prefix) // self.chunk - (keys - self.prefix) // self.chunk > self.previous
        free = (queries >= length - self.suffix) | self._is_global(queries) | self._is_global(keys)
        return (keys <= queries) & (free | ~far)

    def pairs(self, num_tokens: int) -> int:
        """Cells of the mask of a prompt: what has to be computed at least."""
        token = np.arange(num_tokens)
        low = self.prefix + np.maximum((token - self.prefix) // self.chunk - self.previous, 0) * self.chunk
        far = low - self.prefix - np.searchsorted(self._markers(num_tokens), low)  # tokens not read
        everything = self._is_global(token) | (token >= num_tokens - self.suffix)
        return int((token + 1 - np.where(everything, 0, far)).sum())

    def sparsity(self, num_tokens: int) -> float:
        """Share of the causal cells that the mask leaves out. The authors report its complement."""
        return 1 - self.pairs(num_tokens) / max(num_tokens * (num_tokens + 1) // 2, 1) if num_tokens else 0.0

    def select(self, q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""]) -> Selection:
        """Select for one prompt and one query head; only ``length`` matters."""
        block, num_blocks = self.block, -(-q.shape[0] // self.block)
        unused = num_blocks * block
        first = block * jnp.arange(num_blocks, dtype=jnp.int32)
        query = first[:, None] + jnp.arange(block, dtype=jnp.int32)
        everything = self._is_global(query) | (query >= length - self.suffix)
        chunk = jnp.maximum((first - self.prefix) // self.chunk - self.previous, 0)
        low = jnp.where((everything & (query < length)).any(axis=1), 0, self.prefix + chunk * self.chunk)
        end = jnp.where(first < length, jnp.minimum(first + block, length), low)
        num_tiles = (end - low + block - 1) // block
        most = num_blocks
        if not (self.marker or self.suffix or self.prefix):  # no block reads everything
            most = min(num_blocks, -(-((self.previous + 1) * self.chunk + block) // block))
        tile = jnp.arange(most, dtype=jnp.int32)
        tiles = jnp.where(tile < num_tiles[:, None], low[:, None] + tile * block, unused)
        single = np.concatenate([np.arange(min(self.prefix, q.shape[0])), self._markers(q.shape[0])]).astype(np.int32)
        before = (single < low[:, None]) & (num_tiles > 0)[:, None]
        columns = jnp.where(before, single, unused)
        return Selection(tiles, num_tiles.astype(jnp.int32), columns, before.sum(axis=1, dtype=jnp.int32), block)

    def selecting_flops(self, num_tokens: int, num_heads: int, head_dim: int) -> int:
        """None: queries and keys are not looked at."""
        return 0

    def _is_global(self, token):
        return (token < self.prefix) | ((token - self.prefix) % (self.group or self.chunk) < self.marker)

    def _markers(self, num_tokens: int) -> np.ndarray:
        """Marker tokens of the chunks, ascending."""
        token = np.arange(self.prefix, num_tokens)
        return token[self._is_global(token)]


def check_chunks(chunk: int, prefix: int, marker: int, group: int | None):
    """Raise ValueError unless chunks are whole groups that begin with markers, behind a prefix."""
    for name, size, least in [("chunk", chunk, 1), ("prefix", prefix, 0), ("marker", marker, 0)]:
        if size < least:
            raise ValueError(f"{name} must be at least {least}; got {size}")
    if group is not None and (group < 1 or chunk % group):
        raise ValueError(f"group must divide the {chunk} tokens of a chunk; got {group}")
    if marker > (group or chunk):
        raise ValueError(f"marker must be at most the {group or chunk} tokens of a group; got {marker}")
