"""What perplexities are measured on: three texts that lie with the project or with Python, cut into windows.

- ``passages``: the prompts of the copy-heavy families of ``experiments/specbench``, one behind the other: letters, reports and
  recipes written for this project (CC0), which no model published before can have been trained on.
- ``reference``: the language reference's topic "compound statements", as ``pydoc_data`` ships it (PSF licence).
- ``code``: the source of the standard library's ``heapq`` (PSF licence), the same in Python 3.11 and 3.12.

A model may well have read the last two. They are there because a change between two precisions of one model can be seen on any
text; each source is reported by itself.
"""

import hashlib
import heapq
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.evaluation.prompts import COPY_HEAVY, FAMILY_PROMPTS, read_questions
from jaxdec.evaluation.perplexity import windows
from jaxdec.tokenizers import Tokenizer

WIDTH = 512
WINDOWS = {"passages": 6, "reference": 5, "code": 5}
"""Windows of each source: 16, 8192 tokens together."""
ABOUT = {
    "passages": "prompts of experiments/specbench that hold a text, written for this project (CC0)",
    "reference": "Python's language reference, compound statements (pydoc_data.topics, PSF licence)",
    "code": "source of Python's heapq (PSF licence)",
}


class Windows(NamedTuple):
    """The windows of one source.

    Attributes:
      tokens: ``int32[count, width]``.
      sha256: of these token ids: perplexities under two digests cannot be compared.
    """

    tokens: np.ndarray
    sha256: str


def source_texts() -> dict[str, str]:
    """The texts, whole, by the name of their source."""
    from pydoc_data.topics import topics

    passages = [question.text for question in read_questions(FAMILY_PROMPTS, "family") if question.group in COPY_HEAVY]
    return {"passages": "\n\n".join(passages), "reference": topics["compound"], "code": inspect.getsource(heapq)}


def source_windows(
    tokenizer: Tokenizer,
    width: int = WIDTH,
    counts: Mapping[str, int] = WINDOWS,
    texts: Callable[[], Mapping[str, str]] = source_texts,
) -> dict[str, Windows]:
    """The beginning of every text in windows, by source. Nothing is put before a window.

    Args:
      tokenizer: of the model.
      width: tokens of a window.
      counts: windows of each source.
      texts: returns the texts.

    Raises:
      ValueError: a text that is too short for its windows.
    """
    found = {}
    for name, text in texts().items():
        try:
            tokens = windows(tokenizer.encode(text, add_bos=False), width, counts[name])
        except ValueError as error:
            raise ValueError(f"the text {name!r} cannot be cut: {error}") from None
        found[name] = Windows(tokens, digest(tokens.ravel().tolist()))
    return found


def digest(tokens: Sequence[int]) -> str:
    """SHA-256 of token ids."""
    return hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()
