"""Distinct-n: how many different n-grams a list of texts holds, for its length.

Li et al. 2016 (arXiv 1510.03055, sec. 5.2): the number of distinct n-grams divided by the number of generated tokens. That is
what :func:`distinct_n` returns, in [0, 1]; note that the divisor counts tokens, not n-grams, so that texts of ``m`` tokens
without any repetition score ``(m - n + 1) / m``.

The list may be all texts of one prompt (then average over prompts) or of a whole test set (pooled: the score falls as the set
grows). Vijayakumar et al. 2016 (arXiv 1610.02424) do not say which they print; their values reach 13, so they are no such
ratios. Percentages of pooled lists would fit. Compare their ordering, not their numbers.
"""

from collections.abc import Hashable, Sequence


def distinct_n(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams of a list of texts per token.

    Args:
      texts: each a list of tokens (words or ids); no n-gram spans two texts.
      n: tokens of an n-gram.

    Returns:
      A ratio in [0, 1].

    Raises:
      ValueError: ``n`` below 1, no texts, no tokens in any of them, or strings in place of lists of tokens.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if isinstance(texts, str) or any(isinstance(text, str) for text in texts):
        raise ValueError("texts must be lists of tokens, got a string: split it into words first")
    num_tokens = sum(map(len, texts))
    if num_tokens == 0:
        raise ValueError(f"texts holds {len(texts)} texts and no token: give at least one token")
    return len({tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)}) / num_tokens
