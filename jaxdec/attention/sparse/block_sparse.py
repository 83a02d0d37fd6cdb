"""Block-sparse prefill: each block of queries reads the blocks of keys whose mean is most like its own.

MInference 1.0. Jiang et al., 2024, arXiv 2407.02490, as Nawrot et al. 2025 (arXiv 2504.17768) run it, with blocks of 16. With
``mean`` over the tokens of a block of ``b``,

    score[n, m] = mean(q_n) . mean(k_m)    for m < n - 1, m > 0
    read(n)     = the top_blocks blocks m <= n of largest score; block 0 and blocks n - 1 and n always among them

A prompt of ``n`` whole blocks reads ``k (k + 1) / 2 + (n - k) k`` of the ``n (n + 1) / 2`` blocks, ``k = min(top_blocks, n)``.

A last block that is not full is pooled with zeros, as in Nawrot et al.'s code. That changes nothing: only the last block of
queries may read it, and always does; and its own mean, scaled, orders keys as before. Their code adds a block to a prompt of
whole blocks; here none is added.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.selection import PrefillRule, Selection
from jaxdec.typing import Array, Float, Int
from pallas_kernels.arguments import concrete

ALWAYS_READ = 3  # the first block, the block before the query's own, and its own


@dataclasses.dataclass(frozen=True)
class BlockSparse(PrefillRule):
    """The ``top_blocks`` blocks of keys for each block of queries.

    Attributes:
      top_blocks: blocks that a block of queries reads, at least 3; earlier blocks read all there are.
      block: tokens in a block, at least 1.
    """

    top_blocks: int = 64
    block: int = 16

    def __post_init__(self):
        if self.block < 1:
            raise ValueError(f"block must be at least 1 token; got {self.block}")
        if self.top_blocks < ALWAYS_READ:
            raise ValueError(
                f"top_blocks must be at least {ALWAYS_READ}, the first block, the one before and the query's own; "
                f"got {self.top_blocks}"
            )

    @classmethod
    def at_compression(cls, compression: float | int, num_tokens: int, block: int = 16) -> "BlockSparse":
        """The rule whose compression ``1 / (1 - sparsity)`` for prompts of ``num_tokens`` is nearest in sparsity.

        Raises:
          ValueError: a compression below 1, or no tokens.
        """
        if not compression >= 1:
            raise ValueError(f"compression must be at least 1, which is dense; got {compression}")
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1; got {num_tokens}")
        wanted = 1 - 1 / compression
        num_blocks = -(-num_tokens // block)
        low, high = ALWAYS_READ, max(num_blocks, ALWAYS_READ)
        while low < high:  # the fewest blocks that are at most as sparse as wanted
            middle = (low + high) // 2
            low, high = (low, middle) if cls(middle, block).sparsity(num_tokens) <= wanted else (middle + 1, high)
        candidates = [cls(blocks, block) for blocks in (low - 1, low) if blocks >= ALWAYS_READ]
        return min(candidates, key=lambda rule: abs(rule.sparsity(num_tokens) - wanted))

    def sparsity(self, num_tokens: int) -> float:
        """Share of the causal cells of a prompt that is not computed; the same whatever the text.

        Like that of blocks, but the block on the diagonal counts the cells that are causal.
        """
        whole, rest = divmod(num_tokens, self.block)
        few = min(self.top_blocks, whole)
        behind = few * (few + 1) // 2 + (whole - few) * few - whole  # blocks read off the diagonal
        cells = behind * self.block**2 + whole * self.block * (self.block + 1) // 2
        cells += (min(self.top_blocks, whole + 1) - 1) * self.block * rest + rest * (rest + 1) // 2
        return 1 - cells / max(num_tokens * (num_tokens + 1) // 2, 1) if num_tokens else 0.0

    def check_tokens(self, num_tokens: int):
        """Any number of tokens will do."""

    def select(self, q: Float[Array, "T E"], k: Float[Array, "T E"], length: Int[Array, ""]) -> Selection:
        """Select for one prompt and one query head; ``q`` and ``k`` are 0 behind ``length``."""
        block, num_blocks = self.block, -(-q.shape[0] // self.block)
        index = jnp.arange(num_blocks)

        def mean(side):
            padded = jnp.pad(side, ((0, num_blocks * block - side.shape[0]), (0, 0)))
            wide = padded.astype(jnp.promote_types(side.dtype, jnp.float32))
            return wide.reshape(num_blocks, block, -1).mean(axis=1)

        scores = jnp.dot(mean(q), mean(k).T, precision=jax.lax.Precision.HIGHEST)
        behind = index[:, None] - index  # blocks from the query's back to the key's
        scores = jnp.where((index == 0) | (behind <= 1), jnp.inf, scores)
        scores = jnp.where((behind >= 0) & (block * index[:, None] < length), scores, -jnp.inf)
        best, chosen = jax.lax.top_k(scores, min(self.top_blocks, num_blocks))
        read = best > -jnp.inf
        tiles = jnp.sort(jnp.where(read, chosen, num_blocks) * block, axis=1).astype(jnp.int32)
        none = jnp.zeros((num_blocks, 0), jnp.int32)
        return Selection(tiles, read.sum(axis=1, dtype=jnp.int32), none, jnp.zeros(num_blocks, jnp.int32), block)

    def selecting_flops(self, num_tokens: int, num_heads: int, head_dim: int) -> int:
        """``2 (T / b)^2 E`` per query head."""
        return 2 * (-(-num_tokens // self.block)) ** 2 * head_dim * num_heads


def block_table(selection: Selection) -> tuple[Int[Array, "... N M"], Int[Array, "... N"]]:
    """``block_index`` and ``num_blocks`` of :func:`pallas_kernels.block_sparse_attention` for a selection of whole blocks.

    Its ``block_q`` and ``block_k`` are the selection's ``block``. Behind ``num_blocks`` there are blocks that do not exist.

    Raises:
      ValueError: a selection with columns, or, where it is known, with tiles that begin between blocks.
    """
    if selection.columns.shape[-1]:
        raise ValueError(f"selection must have no columns; got {selection.columns.shape[-1]} for each block of queries")
    known = concrete(selection.tiles)
    if known is not None and (between := known[known % selection.block != 0]).size:
        raise ValueError(f"selection must have tiles that begin at multiples of {selection.block}; got {between[0]}")
    return selection.tiles // selection.block, selection.num_tiles
