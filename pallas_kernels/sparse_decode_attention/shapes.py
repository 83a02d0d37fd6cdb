"""Shapes of sparse decode attention: heads of real models with caches and budgets of usual sizes, and odd ones."""

from typing import NamedTuple


class SparseDecodeShape(NamedTuple):
    """Rows, new tokens in each, pages of the cache, heads, lists of a token, head width, slots of a page, most of them read."""

    batch: int
    tokens: int
    pages: int
    num_heads: int
    num_kv_heads: int
    choosers: int
    head_dim: int
    page_size: int
    most: int

    def scaled(self, batch: int, pages: int, most: int) -> "SparseDecodeShape":
        """The same heads with at most ``batch`` rows, ``pages`` pages, and ``most`` that are read."""
        return self._replace(batch=min(batch, self.batch), pages=min(pages, self.pages), most=min(most, self.most))


SHAPES = {
    "smollm2-135m": SparseDecodeShape(8, 1, 128, 9, 3, 3, 64, 16, 16),
    "llama-3-8b": SparseDecodeShape(16, 1, 2048, 32, 8, 8, 128, 16, 64),
    "qwen3-8b": SparseDecodeShape(4, 16, 2048, 32, 8, 8, 128, 16, 128),
    "codellama-34b": SparseDecodeShape(8, 4, 512, 64, 8, 64, 128, 32, 32),
}
ODD = {
    "one of each": SparseDecodeShape(1, 1, 1, 1, 1, 1, 64, 16, 1),
    "every head for itself": SparseDecodeShape(2, 3, 9, 6, 2, 6, 64, 16, 5),
    "two choosers a key/value head": SparseDecodeShape(3, 1, 20, 8, 2, 4, 64, 16, 11),
    "large pages": SparseDecodeShape(2, 2, 3, 5, 1, 1, 128, 64, 3),
}
