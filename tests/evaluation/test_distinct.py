"""Distinct-n: values by hand, bounds, and the divisor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.evaluation import distinct_n

texts = st.lists(st.lists(st.integers(0, 3), max_size=7), min_size=1, max_size=5).filter(any)


def test_values_by_hand():
    lists = [["a", "b", "a", "b"], ["a", "b", "c"]]
    # a b c; ab ba bc; aba bab abc; abab: seven tokens in all.
    assert [distinct_n(lists, n) for n in (1, 2, 3, 4, 5)] == [3 / 7, 3 / 7, 3 / 7, 1 / 7, 0]
    assert distinct_n([["x"], ["y"]], 2) == 0, "an n-gram spans two texts"


@given(texts, st.integers(1, 4))
def test_bounds_and_repetition(lists, n):
    ratio = distinct_n(lists, n)
    assert 0 <= ratio <= 1
    assert distinct_n(lists + lists, n) == pytest.approx(ratio / 2)  # twice the tokens, nothing new
    assert distinct_n(lists[::-1], n) == ratio


@pytest.mark.parametrize(
    ("lists", "n", "message"),
    [
        ([["a"]], 0, "n must be at least 1, got 0"),
        ([], 1, "texts holds 0 texts and no token"),
        ([[], []], 1, "texts holds 2 texts and no token"),
        (["abc"], 1, "got a string"),
        ("abc", 1, "got a string"),
    ],
)
def test_bad_input_is_refused(lists, n, message):
    with pytest.raises(ValueError, match=message):
        distinct_n(lists, n)
