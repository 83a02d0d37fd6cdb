"""Shapes of shared-prefix attention: heads of real models with a batch that shares a prefix, and odd ones."""

from typing import NamedTuple


class PrefixShape(NamedTuple):
    """Rows in each group, keys in each group (the array has the longest), heads, head width."""

    rows: tuple[int, ...]
    keys: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def scaled(self, rows: int, keys: int) -> "PrefixShape":
        """The same heads with at most ``rows`` and ``keys`` in a group."""
        fewer = tuple(min(count, rows) for count in self.rows), tuple(min(count, keys) for count in self.keys)
        return self._replace(rows=fewer[0], keys=fewer[1])


SHAPES = {
    "smollm2-135m": PrefixShape((16,), (1024,), 9, 3, 64),
    "llama-3-8b": PrefixShape((64,), (8192,), 32, 8, 128),
    "qwen3-8b": PrefixShape((32, 32), (4096, 3000), 32, 8, 128),
    "codellama-34b": PrefixShape((256,), (16384,), 64, 8, 128),
}
ODD = {
    "one of each": PrefixShape((1,), (1,), 1, 1, 64),
    "ragged": PrefixShape((3, 0, 5, 1), (17, 9, 0, 130), 6, 2, 64),
    "five heads a group": PrefixShape((7, 2), (33, 300), 5, 1, 128),
    "no sharing of heads": PrefixShape((4,), (129,), 4, 4, 64),
    "a block and one": PrefixShape((9,), (513,), 4, 2, 128),
}
