"""Quest: while decoding, read the pages of the cache that can hold the largest scores, and keep all of them.

Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference. Tang et al., 2024, arXiv 2406.10774. A page of ``P`` keys
is summed up by the least and the greatest value of each channel. No key ``k`` of the page scores more than

    q . k  <=  sum_e max(q_e low_e, q_e high_e)  =  max(q, 0) . high + min(q, 0) . low

so two small products bound all scores of a page. The pages with the largest bounds are read and attention to them is exact. The
page that is being filled and the new tokens are always read. With ``share_heads`` the query heads of a key/value head choose
together, by the sum of their bounds, as in Nawrot et al. 2025 (arXiv 2504.17768); otherwise each for itself.

Only whole pages of committed tokens are scored. What a summary holds of the page that is being filled, and behind it, is not
read, so that drafts that are not committed leave no trace.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.attention.dense import SlotMask
from jaxdec.attention.sparse.slots import cut_pieces, cut_slots, write_slots
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.arguments import check_integers
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles


class PageSummary(struct.PyTreeNode):
    """Least and greatest value of each channel of each page, of the type of the keys.

    Attributes:
      low: ``M`` pages.
      high: of the same pages.
      page_size: tokens of a page.
    """

    low: Float[Array, "B G M E"]
    high: Float[Array, "B G M E"]
    page_size: int = struct.field(pytree_node=False)

    @classmethod
    def of(cls, keys: Float[Array, "B G S E"], page_size: int) -> "PageSummary":
        """Sum up all pages. Those that are not whole yet may hold anything, and so do their summaries.

        Raises:
          ValueError: ``page_size`` below 1, or one that does not divide the slots.
        """
        if page_size < 1 or keys.shape[2] % page_size:
            raise ValueError(f"page_size must be at least 1 and divide the {keys.shape[2]} slots; got {page_size}")
        pages = keys.reshape(*keys.shape[:2], -1, page_size, keys.shape[3])
        return cls(pages.min(axis=3), pages.max(axis=3), page_size)

    def commit(self, keys: Float[Array, "B G S E"], before: Int[Array, "B"], most: int) -> "PageSummary":
        """Sum up again the pages from slot ``before`` on, after a commit of at most ``most`` tokens.

        Forgetting needs no call: pages that are not whole are not read, and the commit that fills one again sums it up.

        Args:
          keys: after the commit.
          before: committed entries per row before it.
          most: static; at least the greatest count of the commit.
        """
        size, num_pages = self.page_size, self.low.shape[2]
        pages = min(-(-most // size) + 1, num_pages)
        first = jnp.minimum(before // size, num_pages - pages)

        cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, size * pages, axis=1))
        part = cut(keys, size * first).reshape(*keys.shape[:2], pages, size, keys.shape[3])
        low, high = write_slots(self.low, part.min(axis=3), first), write_slots(self.high, part.max(axis=3), first)
        return self.replace(low=low, high=high)

    def fork(self, rows: Int[Array, "R"]) -> "PageSummary":
        """Copy rows, as :meth:`jaxdec.cache.Cache.fork` does."""
        return self.replace(low=self.low[rows], high=self.high[rows])


@dataclasses.dataclass(frozen=True)
class Quest:
    """The pages with the largest bounds, ``budget`` tokens of them, beside the page being filled and the new tokens.

    Attributes:
      budget: tokens, a multiple of ``page_size``.
      page_size: tokens of a page.
      sink_pages: first pages that are always among those read; fewer than the budget has.
      share_heads: whether the query heads of a key/value head choose together.
    """

    budget: int
    page_size: int = 16
    sink_pages: int = 0
    share_heads: bool = True

    def __post_init__(self):
        if self.page_size < 1:
            raise ValueError(f"page_size must be at least 1, got {self.page_size}")
        if self.budget < self.page_size or self.budget % self.page_size:
            raise ValueError(f"budget must be a multiple of page_size, {self.page_size}, and not 0; got {self.budget}")
        if not 0 <= self.sink_pages < self.num_pages:
            raise ValueError(
                f"sink_pages must be in 0..{self.num_pages - 1}, fewer than are read; got {self.sink_pages}"
            )

    @property
    def num_pages(self) -> int:
        """Pages that are read by their bounds."""
        return self.budget // self.page_size

    def bounds(self, queries: Float[Array, "B T H E"], summary: PageSummary) -> Float[Array, "B C T M"]:
        """Bounds of ``q . k``, not scaled: ``C`` is ``G`` (sums over the heads of a group) or ``H``; float32 at least."""
        batch, num_new, num_heads, width = queries.shape
        num_kv_heads = summary.low.shape[1]
        members = 1 if self.share_heads else num_heads // num_kv_heads
        dtype = jnp.promote_types(queries.dtype, jnp.float32)
        grouped = queries.astype(dtype).reshape(batch, num_new, num_kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
        up, down = jnp.maximum(grouped, 0), jnp.minimum(grouped, 0)
        if self.share_heads:
            up, down = up.sum(axis=2, keepdims=True), down.sum(axis=2, keepdims=True)

        rows = (batch, num_kv_heads, members * num_new, width)
        up, down = up.reshape(rows), down.reshape(rows)

        def of_head(up, down, low, high):
            dot = functools.partial(jnp.dot, precision=precision_of(dtype))
            return (dot(high.astype(dtype), up.T) + dot(low.astype(dtype), down.T)).T  # no pages are turned, only these

        def of_index(index):
            row, head = index // num_kv_heads, index % num_kv_heads
            sides = (
                cut_slots(side, row, head, jnp.zeros_like(row), side.shape[2]) for side in (summary.low, summary.high)
            )
            return of_head(up[row, head], down[row, head], *sides)

        if jax.default_backend() == "cpu":
            bounds = jax.lax.map(of_index, jnp.arange(batch * num_kv_heads))
        else:
            bounds = jax.vmap(jax.vmap(of_head))(up, down, summary.low, summary.high)
        return bounds.reshape(batch, num_kv_heads * members, num_new, -1)

    def pages(
        self, queries: Float[Array, "B T H E"], summary: PageSummary, length: Int[Array, "B"]
    ) -> tuple[Int[Array, "B C T N"], Bool[Array, "B C T N"]]:
        """Pages that are read by their bounds, largest first, and whether each place is in use (a row may have fewer)."""
        bounds = self.bounds(queries, summary)
        page = jnp.arange(bounds.shape[-1])
        whole = (page < (length // self.page_size)[:, None])[:, None, None]
        bounds = jnp.where(page < self.sink_pages, jnp.inf, bounds)
        top, pages = jax.lax.top_k(jnp.where(whole, bounds, -jnp.inf), min(self.num_pages, page.size))
        return pages, top > -jnp.inf

    def mask(
        self,
        queries: Float[Array, "B T H E"],
        summary: PageSummary,
        length: Int[Array, "B"],
        visible: Bool[Array, "B T T"] | None = None,
    ) -> Bool[Array, "B H T S"]:
        """Reference: which slots each query reads. Takes memory that grows with the capacity."""
        pages, used = self.pages(queries, summary, length)
        num_pages, num_new, num_heads = summary.low.shape[2], queries.shape[1], queries.shape[2]
        chosen = (jax.nn.one_hot(pages, num_pages, dtype=bool) & used[..., None]).any(axis=3)
        chosen = jnp.repeat(chosen, self.page_size, axis=3)
        chosen = jnp.repeat(chosen, num_heads // chosen.shape[1], axis=1)
        slot = jnp.arange(num_pages * self.page_size)
        behind = slot >= (length // self.page_size * self.page_size)[:, None]
        readable = SlotMask.behind(length, slot.size, num_new, visible).allowed
        return (chosen | behind[:, None, None]) & readable[:, None]


def quest_attention(
    queries: Float[Array, "B T H E"],
    keys: Float[Array, "B G S E"],
    values: Float[Array, "B G S E"],
    length: Int[Array, "B"],
    summary: PageSummary,
    rule: Quest,
    visible: Bool[Array, "B T T"] | None = None,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """Attention of new tokens to what ``rule`` chooses, and the log-sum-exp of those scores (scaled), for merging.

    Each query reads ``budget + page_size + T`` slots at most, whatever the capacity; the bounds take two products with one
    entry per page. It loops over rows, heads and queries with plain products on processors.

    Args:
      queries: of the ``T`` new tokens, whose keys and values lie behind ``length``.
      keys: all slots. What lies behind the new tokens is not read and may be NaN.
      values: all slots.
      length: committed entries per row.
      summary: of ``keys``, up to date for all whole pages of committed entries.
      rule: static.
      visible: which new tokens each new token reads; by default itself and those before.

    Raises:
      TypeError: ``length`` that is no integer.
      ValueError: heads that the key/value heads do not divide, a summary with other pages than the rule's or for other slots,
        a length out of range (where it is known).
    """
    batch, num_new, num_heads, width = queries.shape
    num_kv_heads, capacity = keys.shape[1:3]
    size = rule.page_size
    if num_heads % num_kv_heads:
        raise ValueError(f"queries must have a multiple of the keys' {num_kv_heads} heads; got {num_heads}")
    if summary.page_size != size or summary.low.shape[2] * size != capacity:
        raise ValueError(
            f"summary must be of pages of {size} tokens and {capacity} slots; "
            f"got pages of {summary.page_size} and {summary.low.shape[2] * summary.page_size} slots"
        )
    check_integers("length", length, (batch,), low=0, high=capacity - num_new)
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else keys.dtype  # two-byte products are slow on processors
    pages, used = rule.pages(queries, summary, length)
    choosers = pages.shape[1]
    grouped = queries.reshape(batch, num_new, choosers, -1, width)
    tail = min(size + num_new, capacity)
    if visible is None:
        visible = jnp.broadcast_to(jnp.tril(jnp.ones((num_new, num_new), bool)), (batch, num_new, num_new))

    def read(state: SoftmaxState, rows, allowed, sides) -> SoftmaxState:
        block_keys, block_values = (jnp.where(allowed[:, None], side, 0).astype(product_type) for side in sides)
        scores = jnp.dot(rows, block_keys.T, preferred_element_type=dtype, precision=precision_of(product_type))
        return fold(state, jnp.where(allowed, scores * width**-0.5, -jnp.inf), block_values)

    def of_query(index):
        row, chooser, token = index // (choosers * num_new), index // num_new % choosers, index % num_new
        head = chooser // (choosers // num_kv_heads)
        rows = grouped[row, token, chooser].astype(product_type)
        state = empty(rows.shape[0], width, dtype)
        first = size * pages[row, chooser, token]
        sides = (cut_pieces(side, row, head, first, size) for side in (keys, values))
        state = read(state, rows, jnp.repeat(used[row, chooser, token], size), sides)
        current = length[row] // size * size
        start = jnp.minimum(current, capacity - tail)
        slot = start + jnp.arange(tail)
        new = slot - length[row]
        seen = (new < 0) | ((new < num_new) & visible[row, token, jnp.clip(new, 0, num_new - 1)])
        sides = (cut_slots(side, row, head, start, tail) for side in (keys, values))
        return finish(read(state, rows, (slot >= current) & seen, sides))

    out, lse = over_tiles(of_query, jnp.arange(batch * choosers * num_new))
    out = out.reshape(batch, choosers, num_new, -1, width).transpose(0, 2, 1, 3, 4)
    lse = lse.reshape(batch, choosers, num_new, -1).transpose(0, 2, 1, 3)
    return out.reshape(batch, num_new, num_heads, width), lse.reshape(batch, num_new, num_heads)
