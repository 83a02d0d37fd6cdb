"""Texts as windows of token ids, for language models.

Texts are joined, each with an end token behind it where there is one, and cut into windows of ``length + 1`` tokens that
overlap by one: every token but the very first is predicted exactly once in an epoch.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxdec.data.sources import Example
from jaxdec.typing import Int


def byte_tokens(text: str) -> list[int]:
    """The UTF-8 bytes of a text as token ids: a tokenizer for any language, with a vocabulary of 256."""
    return list(text.encode("utf-8", errors="replace"))


def joined_tokens(
    texts: Iterable[str], encode: Callable[[str], Sequence[int]], *, end: int | None = None, limit: int | None = None
) -> Int[np.ndarray, "N"]:
    """Token ids of texts, one behind the other.

    Args:
      texts: read only as far as the limit asks for.
      encode: of a text.
      end: a token that goes behind each text.
      limit: at most so many tokens; None takes all.

    Returns:
      Token ids, int32.

    Raises:
      ValueError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    pieces, total = [], 0
    for text in texts:
        ids = [*encode(text), *([] if end is None else [end])]
        pieces.append(np.asarray(ids, np.int32))
        total += len(ids)
        if limit is not None and total >= limit:
            break
    return np.concatenate([np.zeros(0, np.int32), *pieces])[:limit]


@dataclasses.dataclass(frozen=True)
class TokenWindows:
    """A source of examples ``{"tokens": int32 [length + 1]}``.

    Attributes:
      tokens: of all texts.
      length: tokens that are predicted in a window.

    Raises:
      ValueError: fewer tokens than one window needs, or a length below 1.
    """

    tokens: Int[np.ndarray, "N"]
    length: int

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if self.tokens.shape[0] <= self.length:
            raise ValueError(f"length {self.length} needs more than {self.tokens.shape[0]} tokens")

    def __len__(self) -> int:
        return (self.tokens.shape[0] - 1) // self.length

    def __getitem__(self, index: int) -> Example:
        return {"tokens": self.tokens[index * self.length : (index + 1) * self.length + 1]}

    def rows(self, indices: Int[np.ndarray, "B"]) -> Example:
        """Several windows at once, stacked."""
        return {"tokens": self.tokens[indices[:, None] * self.length + np.arange(self.length + 1)]}
