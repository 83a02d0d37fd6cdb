"""Vertical-slash selection against loops over queries, diagonals and tiles."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.vertical_slash import VerticalSlash, last_query_scores, sum_over_diagonals
from tests.attention.sparse.prompts import RULES, best, mask_of, prompts, vertical_slash_mask


@pytest.mark.parametrize("name", ["vertical-slash", pytest.param("exact diagonals", marks=pytest.mark.slow)])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(0, 70), min_size=2, max_size=2))
def test_reads_top_columns_and_tiles_along_top_diagonals(name, seed, lengths):
    rule = RULES[name]
    q, k, _, lengths = prompts(seed, (2, 70, 4, 2, 8), lengths)

    def columns_and_slashes(columns, slashes):
        return best(columns, rule.sinks, rule.vertical), best(slashes, rule.local, rule.slash)

    wanted = vertical_slash_mask(rule, q, k, lengths, columns_and_slashes)
    np.testing.assert_array_equal(mask_of(rule, q, k, lengths), wanted)


def test_tiles_of_one_query_are_columns_and_diagonals():
    rule = RULES["exact diagonals"]
    q, k, _, lengths = prompts(6, (1, 70, 1, 1, 8), [70])
    mask = mask_of(rule, q, k, lengths)[0, 0]
    last = set(np.nonzero(mask[69])[0])
    columns = [j for j in last if mask[j:, j].all()]
    slashes = [d for d in range(70) if np.diagonal(mask, -d).all()]
    assert len(columns) >= rule.vertical
    assert len(slashes) >= rule.slash
    query, key = np.mgrid[:70, :70]
    np.testing.assert_array_equal(mask, (key <= query) & (np.isin(key, columns) | np.isin(query - key, slashes)))


@pytest.mark.parametrize("length", [30, 12, 5, 1, 0])
def test_scores_are_shares_of_attention(length):
    """Also of prompts shorter than the window, where no queries may be made up."""
    q, k, _, _ = prompts(2, (1, 30, 1, 1, 8), [30])
    used = (jnp.arange(30) < length)[:, None]
    scores = last_query_scores(q[0, :, 0] * used, k[0, :, 0] * used, jnp.asarray(length), 12)
    for score in scores:
        assert (np.asarray(score) >= 0).all()
        assert not np.asarray(score[length:]).any()
        np.testing.assert_allclose(score.sum(), min(length, 1), atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(1, 1), (1, 5), (4, 9), (6, 3)]))
def test_sums_over_diagonals(seed, shape):
    matrix = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    wanted = [np.trace(matrix, offset) for offset in range(-shape[0] + 1, shape[1])]
    np.testing.assert_allclose(sum_over_diagonals(jnp.asarray(matrix)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vertical": 3}, "vertical must be at least sinks, 4; got 3"),
        ({"slash": 63}, "slash must be at least local, 64; got 63"),
        ({"window": 0}, "window must be at least 1 query; got 0"),
        ({"sinks": -1}, "sinks must not be negative; got -1"),
        ({"local": 0}, "local must be at least 1, .*; got 0"),
        ({"tile": 0}, "tile must be at least 1 key; got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VerticalSlash(**settings)


def test_prompts_that_the_window_covers_are_refused():
    q, k, _, lengths = prompts(0, (1, 12, 1, 1, 4), [12])
    with pytest.raises(ValueError, match=r"q must have room for more tokens than window, 12; got 12: .* dense"):
        RULES["vertical-slash"].selection(q, k, lengths)


def test_selecting_costs_a_product_of_the_window():
    assert VerticalSlash(window=256).selecting_flops(1000, num_heads=3, head_dim=64) == 2 * 256 * 1000 * 64 * 3
