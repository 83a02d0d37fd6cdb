"""Shapes of codebooks: those of the Discrete Key-Value Bottleneck's experiments, and odd ones."""

from typing import NamedTuple


class CodebookShape(NamedTuple):
    """Codebooks, queries of each, keys of each, numbers in a key."""

    codebooks: int
    queries: int
    keys: int
    width: int

    def scaled(self, codebooks: int, queries: int, keys: int) -> "CodebookShape":
        """The same keys, at most so many of them."""
        return CodebookShape(
            min(self.codebooks, codebooks), min(self.queries, queries), min(self.keys, keys), self.width
        )


SHAPES = {
    "dkvb, cifar10": CodebookShape(256, 256, 4096, 14),
    "dkvb, digits": CodebookShape(64, 256, 256, 8),
    "dkvb, blobs": CodebookShape(1, 200, 400, 2),
}
ODD = {
    "one of each": CodebookShape(1, 1, 1, 1),
    "one key": CodebookShape(3, 5, 1, 4),
    "one query": CodebookShape(2, 1, 300, 5),
    "one codebook, a block and one": CodebookShape(1, 9, 1025, 3),
    "wide": CodebookShape(2, 7, 33, 130),
}
