"""Shapes of block-sparse attention: heads of real models with prompts and budgets of usual sizes, and odd ones."""

from typing import NamedTuple


class BlockSparseShape(NamedTuple):
    """Prompts, tokens of each, heads, head width, queries and keys of a block, blocks that are read at most."""

    batch: int
    tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_q: int
    block_k: int
    most: int

    @property
    def num_blocks(self) -> int:
        """Blocks of queries in a prompt."""
        return -(-self.tokens // self.block_q)

    def scaled(self, batch: int, tokens: int, most: int) -> "BlockSparseShape":
        """The same heads and blocks with at most ``batch`` prompts, ``tokens`` tokens and ``most`` blocks."""
        return self._replace(batch=min(batch, self.batch), tokens=min(tokens, self.tokens), most=min(most, self.most))


SHAPES = {
    "smollm2-135m": BlockSparseShape(4, 2048, 9, 3, 64, 64, 64, 8),
    "llama-3-8b": BlockSparseShape(1, 32768, 32, 8, 128, 128, 128, 32),
    "qwen3-8b": BlockSparseShape(2, 16384, 32, 8, 128, 16, 16, 64),
    "codellama-34b": BlockSparseShape(1, 16384, 64, 8, 128, 64, 128, 16),
}
ODD = {
    "one of each": BlockSparseShape(1, 1, 1, 1, 64, 16, 16, 1),
    "shorter than a block": BlockSparseShape(3, 13, 2, 1, 64, 32, 16, 2),
    "three heads a group, a block and one": BlockSparseShape(2, 65, 6, 2, 64, 32, 64, 2),
    "blocks of queries longer than those of keys": BlockSparseShape(2, 150, 2, 2, 64, 64, 16, 7),
}
