"""How much of a known set of right texts a list of texts covers, and how many of its texts are right."""

from collections.abc import Collection, Hashable, Sequence


def coverage(texts: Sequence[Hashable], valid: Collection[Hashable]) -> float:
    """Share of the ``valid`` texts that occur in ``texts``: recall.

    Raises:
      ValueError: no texts, or nothing valid.
    """
    _check(texts, valid)
    valid = set(valid)
    return len(valid & set(texts)) / len(valid)


def validity(texts: Sequence[Hashable], valid: Collection[Hashable]) -> float:
    """Share of ``texts``, repetitions counted, that are ``valid``: precision.

    Raises:
      ValueError: no texts, or nothing valid.
    """
    _check(texts, valid)
    valid = set(valid)
    return sum(text in valid for text in texts) / len(texts)


def _check(texts: Sequence[Hashable], valid: Collection[Hashable]) -> None:
    for name, value in {"texts": texts, "valid": valid}.items():
        if isinstance(value, str):
            raise ValueError(f"{name} must be a list of texts, got the string {value[:40]!r}")
        if not value:
            raise ValueError(f"{name} is empty: give at least one text")
