"""Shapes of decode attention: heads of real models with a batch and draft trees of usual sizes, and odd ones."""

from typing import NamedTuple


class DecodeShape(NamedTuple):
    """Rows, new tokens in each, slots of the cache, heads, head width."""

    batch: int
    tokens: int
    slots: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def scaled(self, batch: int, slots: int) -> "DecodeShape":
        """The same heads with at most ``batch`` rows and ``slots`` slots."""
        return self._replace(batch=min(batch, self.batch), slots=min(slots, self.slots))


SHAPES = {
    "smollm2-135m": DecodeShape(8, 1, 1024, 9, 3, 64),
    "llama-3-8b": DecodeShape(16, 1, 8192, 32, 8, 128),
    "qwen3-8b": DecodeShape(4, 16, 4096, 32, 8, 128),
    "codellama-34b": DecodeShape(32, 4, 16384, 64, 8, 128),
}
ODD = {
    "one of each": DecodeShape(1, 1, 1, 1, 1, 64),
    "as many tokens as slots": DecodeShape(2, 5, 5, 4, 2, 64),
    "five heads a group": DecodeShape(3, 2, 77, 5, 1, 128),
    "a block and one": DecodeShape(2, 3, 513, 4, 4, 64),
}
