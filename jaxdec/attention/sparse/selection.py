"""Which keys each query of a prompt reads: selections, the rules that make them, and what a selection costs.

The Sparse Frontier: Sparse Attention Trade-offs in Transformer LLMs. Nawrot et al., 2025, arXiv 2504.17768. Sparse attention
for prompts, without training: a rule looks at queries and keys of a head and selects what every block of queries reads;
attention to that is exact. A selection is a set of tiles (as many neighbouring keys as the block has queries) and of single
keys, disjoint, so that no key is read or counted twice. With ``read(n)`` the keys of block ``n`` of ``b`` queries,

    mask[t, j] = j <= t  and  j in read(t // b)                  sparsity = 1 - |mask| / (L (L + 1) / 2)

for a row of ``L`` tokens: the share of the causal cells that is not computed, 0 where all are. Attention then costs
``4 E |mask|`` operations per query head beside what selecting costs, and reads ``sum_n |read(n)|`` keys and values.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.arguments import check_integers, check_qkv


class Selection(struct.PyTreeNode):
    """What the ``N`` blocks of queries of one prompt and one head read; or of all, ``[B, H]`` in front.

    Places that are not in use hold ``N * block``, which no query may read.

    Attributes:
      tiles: ``int32[N, M]``, first keys of the tiles, ascending; tiles do not overlap.
      num_tiles: ``int32[N]``, tiles in use.
      columns: ``int32[N, C]``, keys read one by one, ascending, in no tile.
      num_columns: ``int32[N]``, columns in use.
      block: queries in a block and keys in a tile.
    """

    tiles: Array
    num_tiles: Array
    columns: Array
    num_columns: Array
    block: int = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class PrefillRule(abc.ABC):
    """A rule that selects what the queries of a prompt read, per query head.

    Rows are prompts of ``lengths[b]`` tokens that begin at slot 0; what lies behind them is not read and may be NaN. Sizes of
    selections are static, so rules work under ``jit``.
    """

    @abc.abstractmethod
    def check_tokens(self, num_tokens: int):
        """Raise ValueError if the rule is not defined for prompts padded to ``num_tokens``."""

    @abc.abstractmethod
    def select(self, q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""]) -> Selection:
        """Select for one prompt and one query head; ``q`` and ``k`` are 0 behind ``length``."""

    def reads(self, queries: Int[Array, "*t"], keys: Int[Array, "*j"], length: Int[Array, ""]) -> Bool[Array, "*cells"]:
        """Which of the selected cells are computed: those not behind the query, unless a rule reads less.

        Args:
          queries: places of queries in a prompt of ``length`` tokens.
          keys: places of keys; the two broadcast.
          length: of the prompt.
        """
        return keys <= queries

    @abc.abstractmethod
    def selecting_flops(self, num_tokens: int, num_heads: int, head_dim: int) -> int:
        """Operations that selecting takes for one prompt in one layer, products alone."""

    def check(self, q: Array, k: Array, v: Array, lengths: Array):
        """Check the arguments of :meth:`selection` and of the executor.

        Raises:
          TypeError: types that are not floats or not the same, lengths that are no integers.
          ValueError: shapes that do not fit, query heads that the key/value heads do not divide, keys of other tokens than
            the queries, lengths out of range (where they are known), too few tokens for the rule.
        """
        check_qkv(q, k, v)
        if q.shape[:2] != k.shape[:2]:
            raise ValueError(
                f"k must be of the tokens of q, [{q.shape[0]}, {q.shape[1]}]; got {list(k.shape[:2])}: "
                "a rule selects for whole prompts, which begin at slot 0"
            )
        check_integers("lengths", lengths, q.shape[:1], low=0, high=q.shape[1])
        self.check_tokens(q.shape[1])

    def selection(self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]) -> Selection:
        """Select for all prompts and query heads; head ``h`` reads key/value head ``h // (H / G)``.

        Args:
          q: queries, ``T == S``.
          k: keys.
          lengths: tokens of each prompt, 0 to ``T``.

        Raises:
          TypeError: see :meth:`check`.
          ValueError: see :meth:`check`.
        """
        self.check(q, k, k, lengths)
        group = q.shape[2] // k.shape[2]

        def of_head(index):
            row, head = index // q.shape[2], index % q.shape[2]
            used = (jnp.arange(q.shape[1]) < lengths[row])[:, None]
            return self.select(
                jnp.where(used, q[row, :, head], 0), jnp.where(used, k[row, :, head // group], 0), lengths[row]
            )

        # One head after the other: products with batch dimensions are slow on processors.
        flat = jax.lax.map(of_head, jnp.arange(q.shape[0] * q.shape[2]))
        return jax.tree.map(lambda x: x.reshape(q.shape[0], q.shape[2], *x.shape[1:]), flat)

    def mask(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]
    ) -> Bool[Array, "B H T S"]:
        """What each query reads, as a mask. Takes memory that grows with the square of ``T``: for short prompts and tests."""
        place = jnp.arange(q.shape[1])
        reads = jax.vmap(lambda length: self.reads(place[:, None], place, length))(lengths)
        return selected_mask(self.selection(q, k, lengths), lengths, q.shape[1]) & reads[:, None]


def selected_mask(selection: Selection, lengths: Int[Array, "B"], num_tokens: int) -> Bool[Array, "B H T T"]:
    """The mask of a selection for all prompts and heads; all False in the rows behind ``lengths``."""
    block, (num_blocks, _) = selection.block, selection.tiles.shape[-2:]
    nothing = jnp.zeros((num_blocks, (num_blocks + 1) * block + 1), jnp.int32)
    at = jnp.arange(num_blocks)[:, None]
    position = jnp.arange(num_tokens)

    def of_head(head: Selection):
        tiles = nothing.at[at, head.tiles].add(1).at[at, head.tiles + block].add(-1).cumsum(axis=1)
        read = tiles.at[at, head.columns].add(1)[:, :num_tokens] > 0
        return jnp.repeat(read, block, axis=0)[:num_tokens] & (position <= position[:, None])

    batch, num_heads = selection.tiles.shape[:2]
    heads = jax.tree.map(lambda x: x.reshape(batch * num_heads, *x.shape[2:]), selection)
    mask = jax.lax.map(of_head, heads).reshape(batch, num_heads, num_tokens, num_tokens)
    return mask & (position < lengths[:, None])[:, None, :, None]


def masked_attention(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    mask: Bool[Array, "B H T S"],
) -> Float[Array, "B T H E"]:
    """Reference: ``softmax(q k^T / sqrt(E)) v`` over the cells of a mask, all scores at once, float32 at least.

    Queries without cells get 0. Keys and values that no query reads may be NaN.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    group = q.shape[2] // k.shape[2]
    read = mask.any(axis=2).transpose(0, 2, 1)[..., None]  # [B, S, H, 1]
    keys, values = (jnp.where(read, jnp.repeat(side, group, axis=2), 0).astype(dtype) for side in (k, v))
    highest = jax.lax.Precision.HIGHEST
    scores = jnp.einsum("bthe,bshe->bhts", q.astype(dtype), keys, precision=highest) / q.shape[-1] ** 0.5
    scores = jnp.where(mask, scores, -jnp.inf)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.where(mask, jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top)), 0)
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("bhts,bshe->bthe", weights / jnp.where(total == 0, 1, total), values, precision=highest)


def sparsity(selection: Selection, lengths: Int[Array, "B"]) -> Float[Array, "B H"]:
    """Share of the causal cells that is not computed, from the selection alone; 0 for prompts without tokens.

    Cells of tiles above the diagonal or behind the prompt are no causal cells and are not counted. Nawrot et al.'s code counts
    whole tiles for vertical-slash, so that its figure is lower and can be negative.
    """
    block, num_blocks = selection.block, selection.tiles.shape[-2]
    first = block * jnp.arange(num_blocks)[:, None]
    rows = jnp.clip(lengths[:, None, None, None] - first, 0, block)

    def up_to(x):  # sum of min(y, block) over y = 1 .. x
        inside = jnp.clip(x, 0, block)
        return inside * (inside + 1) // 2 + block * jnp.maximum(x - block, 0)

    before = first - selection.tiles  # keys of the tile, and behind it, that come before the block's first query
    cells = (up_to(before + rows) - up_to(before)).sum(axis=-1)
    cells += jnp.clip(first + rows - jnp.maximum(selection.columns, first), 0).sum(axis=-1)
    length = lengths.astype(jnp.float32)[:, None]
    return 1 - cells.astype(jnp.float32).sum(axis=-1) / jnp.maximum(length * (length + 1) / 2, 1) - (length == 0)


def kv_bytes_selected(selection: Selection, head_dim: int, dtype: str) -> Float[Array, "B H"]:
    """Bytes of keys and values that the executor gathers, per prompt and query head.

    Each block of queries reads its tiles whole, and its columns; query heads do not share what they read.
    """
    keys = (selection.num_tiles * selection.block + selection.num_columns).astype(jnp.float32).sum(axis=-1)
    return keys * (2 * head_dim * jnp.dtype(dtype).itemsize)
