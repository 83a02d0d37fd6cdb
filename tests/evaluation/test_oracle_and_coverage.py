"""Oracle@k, coverage and validity."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.evaluation import coverage, oracle_at_k, validity


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_oracle_never_falls_with_k(scores):
    values = [oracle_at_k(scores, k) for k in range(1, len(scores) + 1)]
    assert values == sorted(values)
    assert values[0] == scores[0]
    assert values[-1] == max(scores)


def test_oracle_looks_at_the_first_k_only():
    assert oracle_at_k([1.0, 5.0, 9.0], 2) == 5.0


def test_coverage_is_recall_and_validity_precision():
    valid = {"a", "b", "c", "d"}
    texts = ["a", "a", "b", "x", "y"]
    assert coverage(texts, valid) == 2 / 4
    assert validity(texts, valid) == 3 / 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: oracle_at_k([], 1), "scores is empty"),
        (lambda: oracle_at_k([1.0], 2), r"k must be between 1 and the number of scores \(1\), got 2"),
        (lambda: oracle_at_k([1.0], 0), r"k must be between 1 and the number of scores \(1\), got 0"),
        (lambda: oracle_at_k([1.0, math.nan], 1), "scores holds NaN at index 1"),
        (lambda: coverage([], ["a"]), "texts is empty"),
        (lambda: coverage(["a"], []), "valid is empty"),
        (lambda: validity([], ["a"]), "texts is empty"),
        (lambda: validity(["a"], []), "valid is empty"),
        (lambda: validity("ab", ["a"]), "texts must be a list of texts, got the string 'ab'"),
        (lambda: coverage(["a"], "ab"), "valid must be a list of texts, got the string 'ab'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
