"""FlexPrefill's sizes against sums over sorted scores."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from tests.attention.sparse.prompts import RULES, best, mask_of, prompts, vertical_slash_mask


def covering(scores, rule):
    """How many of the largest scores go beyond the share, within the budgets."""
    total, count = 0.0, 1
    for score in sorted(scores, reverse=True):
        total += score
        if total > rule.alpha:
            break
        count += 1
    count = max(count, rule.min_budget)
    return count if rule.max_budget is None else min(count, rule.max_budget)


@pytest.mark.parametrize("name", ["flex", pytest.param("bounded flex", marks=pytest.mark.slow)])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(0, 70), min_size=2, max_size=2))
def test_takes_what_covers_the_share(name, seed, lengths):
    rule = RULES[name]
    q, k, _, lengths = prompts(seed, (2, 70, 4, 2, 8), lengths)
    sizes = []

    def columns_and_slashes(columns, slashes):
        sizes.extend([covering(columns, rule), covering(slashes, rule)])
        return best(columns, rule.sinks, sizes[-2]), best(slashes, rule.local, sizes[-1])

    wanted = vertical_slash_mask(rule, q, k, lengths, columns_and_slashes)
    np.testing.assert_array_equal(mask_of(rule, q, k, lengths), wanted)
    if max(lengths) > 50 and name == "flex":
        assert len(set(sizes)) > 1, "sizes must follow the data, or this tests nothing"


def test_share_of_one_takes_everything():
    """Also if the scores add up to more than 1 by rounding."""
    score = jnp.asarray([1.0000001] + [0.0] * 9)
    whole, part = (FlexPrefill(alpha=alpha, min_budget=4, local=3) for alpha in (1.0, 0.999))
    assert whole.budget(score) >= 10
    assert part.budget(score) == 4


@pytest.mark.slow
def test_without_a_share_it_is_vertical_slash():
    q, k, _, lengths = prompts(3, (2, 70, 4, 2, 8), [70, 33])
    flex = FlexPrefill(alpha=0.0, min_budget=7, window=12, sinks=2, local=3, tile=8)
    fixed = VerticalSlash(vertical=7, slash=7, window=12, sinks=2, local=3, tile=8)
    np.testing.assert_array_equal(mask_of(flex, q, k, lengths), mask_of(fixed, q, k, lengths))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.01}, "alpha must be from 0 to 1; got 1.01"),
        ({"alpha": -0.1}, "alpha must be from 0 to 1; got -0.1"),
        ({"alpha": float("nan")}, "alpha must be from 0 to 1; got nan"),
        ({"min_budget": 63}, "min_budget must be at least sinks and local, 64; got 63"),
        ({"min_budget": 100, "max_budget": 99}, "max_budget must be at least min_budget, 100; got 99"),
        ({"window": 0}, "window must be at least 1 query; got 0"),
        ({"sinks": -1}, "sinks must not be negative; got -1"),
        ({"local": 0}, "local must be at least 1, .*; got 0"),
        ({"tile": 0}, "tile must be at least 1 key; got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FlexPrefill(**settings)


def test_prompts_that_the_window_covers_are_refused():
    q, k, _, lengths = prompts(0, (1, 12, 1, 1, 4), [12])
    with pytest.raises(ValueError, match="q must have room for more tokens than window, 12; got 12"):
        RULES["flex"].mask(q, k, lengths)


def test_selecting_costs_a_product_of_the_window():
    assert FlexPrefill(window=512).selecting_flops(1000, num_heads=3, head_dim=64) == 2 * 512 * 1000 * 64 * 3
