"""Counting pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.decoding.paging import Paging, rounded


def test_pages_are_those_of_each_row():
    paging = Paging.of(np.array([100, 3, 1]), np.array([28, 1, 200]), capacity=256, page_size=64)
    assert (paging.whole, paging.behind_prompts) == (2 + 1 + 4, 1 + 1 + 4)
    assert paging.num_pages(3, 256) == 7
    assert paging.num_pages(3, 256, behind_prompts=True) == 6
    assert paging.num_pages(3, 257) == 10, "room for one token more may take a page more of each row"
    assert paging.num_pages(3, 256 + 65) == 13
    twice = paging.repeated(2)
    assert (twice.whole, twice.behind_prompts, twice.capacity) == (14, 12, 256)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1), st.integers(0, 200))
def test_what_a_method_adds_always_fits(rows, more):
    own, budgets = np.array(rows).T
    paging = Paging.of(own, budgets, capacity=600, page_size=64)
    needed = (-(-(own + budgets + more) // 64)).sum()
    assert paging.num_pages(len(rows), 600 + more) >= needed


@given(st.integers(1, 10**6))
def test_numbers_are_rounded_up_by_an_eighth_at_most(number):
    assert number <= rounded(number) < number * 9 / 8 + 1e-9
    assert rounded(number) == rounded(rounded(number))
    assert bin(rounded(number)).rstrip("0").count("1") <= 4
    if number < 16:
        assert rounded(number) == number


def test_a_page_has_a_token():
    with pytest.raises(ValueError, match="page_size must be at least 1, got 0"):
        Paging.of(np.array([1]), np.array([1]), 16, 0)
