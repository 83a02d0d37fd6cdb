"""Paged layout: rows of very different lengths keep what each of them needs, in pages of one pool.

PagedAttention: Kwon et al. 2023, arXiv 2309.06180. Slot ``s`` of row ``b`` is

    pool[page_table[b, s // page_size], s % page_size]

What a row can ever hold is known when decoding starts: its prompt, its budget, and room for draft trees. So all pages are
dealt out when the cache is made and none is looked for later: rows that need ``n_b`` slots hold ``sum_b ceil(n_b / page_size)``
pages, where a contiguous cache holds ``B max_b n_b`` slots. Page 0 belongs to nobody: table entries behind a row's last page
name it, so that what is written there goes nowhere, and no row may read it.

A page has 128 tokens: as many keys as attention reads at a time on processors, so that a row's numbers are added up in the
order of the contiguous layout, and as many as a vector register of a TPU is wide. Half a page is lost per row on average.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.attention.dense import KEY_BLOCK, SlotMask, attend_blocks, default_key_block
from jaxdec.cache.contiguous import ContiguousCache, replaced
from jaxdec.cache.pages import NOWHERE, deal, gather, places, read, write
from jaxdec.typing import Array, Bool, Float, Int

PAGE_SIZE = 128


class PagedCache(struct.PyTreeNode):
    """Keys and values of all rows in one pool per layer.

    Attributes:
      keys: per layer; ``N`` pages of ``P`` tokens, the first of them nobody's.
      values: per layer.
      page_table: pages of each row in the order of its text, then ``NOWHERE``.
      length: committed entries per row.
    """

    keys: tuple[Float[Array, "N P G E"], ...]
    values: tuple[Float[Array, "N P G E"], ...]
    page_table: Int[Array, "B M"]
    length: Int[Array, "B"]

    @classmethod
    def create(
        cls,
        room: Int[Array, "B"],
        *,
        num_layers: int,
        num_pages: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: Any,
        page_size: int = PAGE_SIZE,
    ) -> "PagedCache":
        """Return an empty cache.

        Args:
          room: slots that each row needs, at least 1.
          num_layers: layers.
          num_pages: pages of the pool, beside that of nobody: at least ``sum_b ceil(room_b / page_size)`` (checked where known;
            otherwise the caller's to keep).
          capacity: slots that tables have entries for: the most that a row needs, and those that padding passes over.
          num_kv_heads: key/value heads.
          head_dim: width of one head.
          dtype: of keys and values.
          page_size: tokens of a page.

        Raises:
          ValueError: a size below 1, or too few pages.
        """
        sizes = {"num_layers": num_layers, "num_pages": num_pages, "capacity": capacity, "page_size": page_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        per_block = max(KEY_BLOCK // page_size, 1)  # tables have entries for whole blocks of attention
        width = -(-capacity // (page_size * per_block)) * per_block
        shape = (1 + num_pages, page_size, num_kv_heads, head_dim)
        return cls(
            keys=tuple(jnp.zeros(shape, dtype) for _ in range(num_layers)),
            values=tuple(jnp.zeros(shape, dtype) for _ in range(num_layers)),
            page_table=deal(-(-room // page_size), num_pages, width),
            length=jnp.zeros(room.shape[0], jnp.int32),
        )

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.keys[0].shape[1]

    @property
    def capacity(self) -> int:
        """Slots that tables have entries for; a row has those of its pages, and what lies behind them goes nowhere."""
        return self.page_table.shape[1] * self.page_size

    @property
    def pages(self) -> Int[Array, "B"]:
        """Pages of each row."""
        return (self.page_table != NOWHERE).sum(axis=1).astype(jnp.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(array.nbytes for array in (*self.keys, *self.values))

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> SlotMask:
        """Which slots each new token may read: those of a contiguous cache, as far as the row's pages go."""
        return SlotMask.behind(self.length, self.capacity, num_new, visible, room=self.pages * self.page_size)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "PagedCache":
        """Write one layer's new keys and values at ``length`` of each row."""
        place = self._behind(jnp.arange(keys.shape[1])[None])
        return self.replace(
            keys=replaced(self.keys, layer, write(self.keys[layer], keys, place)),
            values=replaced(self.values, layer, write(self.values[layer], values, place)),
        )

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "PagedCache":
        """Nothing is chosen by queries here."""
        return self

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Dense attention over the slots that ``mask`` allows."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp; each block of slots is gathered from its pages."""
        keys, values, size = self.keys[layer], self.values[layer], self.page_size
        count = max(default_key_block(self.capacity) // size, 1)

        def block(start):
            pages = jax.lax.dynamic_slice_in_dim(self.page_table, start // size, count, axis=1)
            return gather(keys, pages), gather(values, pages)

        return attend_blocks(queries, block, mask, count * size, num_kv_heads=keys.shape[2], dtype=keys.dtype)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "PagedCache":
        """Move the entries of ``path`` behind ``length`` and advance it by ``count``."""
        advanced = self.replace(length=self.length + count)
        if path is None:
            return advanced
        source, target = self._behind(path), self._behind(jnp.arange(path.shape[1])[None])

        def move(pool):
            return write(pool, read(pool, source), target)  # entries past count land in unused slots, or nowhere

        return advanced.replace(keys=tuple(map(move, self.keys)), values=tuple(map(move, self.values)))

    def fork(self, rows: Int[Array, "R"]) -> "PagedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``, with as many pages, of its own.

        The pool is as large as before, or a multiple of that where there are more rows. Its pages must suffice: they do for
        beams, since the texts of one prompt need the same, and where all rows are repeated.

        Raises:
          ValueError: they do not, where that is known.
        """
        times = -(-rows.shape[0] // self.length.shape[0])
        num_pages = (self.keys[0].shape[0] - 1) * times
        table = deal(self.pages[rows], num_pages, self.page_table.shape[1])
        source = jnp.zeros(1 + num_pages, jnp.int32).at[table].set(self.page_table[rows])  # of each page's copy

        def copy(pool):
            return pool.at[source].get(mode="promise_in_bounds")

        return PagedCache(tuple(map(copy, self.keys)), tuple(map(copy, self.values)), table, self.length[rows])

    def contiguous(self) -> ContiguousCache:
        """The same entries with every row's in one piece, as many slots for each as tables have entries for."""
        keys, values = (tuple(gather(pool, self.page_table) for pool in side) for side in (self.keys, self.values))
        return ContiguousCache(keys, values, self.length)

    def _behind(self, offset: Int[Array, "#B T"]) -> tuple[Array, Array]:
        """Places of slots counted from ``length`` on."""
        return places(self.page_table, self.length[:, None] + offset, self.page_size)
