"""Counters of speculative decoding, against simulation and values computed by hand."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.evaluation.acceptance import DraftCounts, expected_tokens_per_call, pooled, predicted_speedup

ONE = DraftCounts(new_tokens=10, target_calls=4, drafted=(4, 3, 0), accepted=(2, 1, 0), fed=12)


def test_rates_of_one_text():
    assert ONE.tokens_per_call == 2.5
    assert ONE.acceptance == [0.5, pytest.approx(1 / 3), None]
    assert (ONE.wasted, ONE.wasted_share) == (9, 0.75)
    assert ONE.chain_chance == 3 / 7


def test_plain_decoding_drafts_nothing():
    plain = DraftCounts(new_tokens=5, target_calls=5)
    assert (plain.tokens_per_call, plain.acceptance, plain.wasted) == (1.0, [], 0)
    assert (plain.wasted_share, plain.chain_chance) == (None, None)
    assert math.isnan(DraftCounts(0, 0).tokens_per_call)


def test_pooled_counts_are_sums_and_not_means_of_ratios():
    both = pooled([ONE, DraftCounts(6, 6, (6,), (0,), 6), DraftCounts(1, 1)])
    assert both == DraftCounts(17, 11, (10, 3, 0), (2, 1, 0), 18)
    assert both.tokens_per_call == 17 / 11
    assert pooled([]) == DraftCounts(0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drafted": (1, 2), "accepted": (1,)}, "drafted has 2 depths, accepted 1"),
        (
            {"drafted": (2, 1), "accepted": (1, 2), "fed": 9},
            r"depth 2: accepted must be from 0 to drafted \(1\), got 2",
        ),
        ({"drafted": (2,), "accepted": (-1,)}, "depth 1: accepted must be from 0"),
        ({"drafted": (2,), "accepted": (2,), "fed": 1}, "accepted sums to 2, more than the 1 nodes fed"),
    ],
)
def test_counts_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        DraftCounts(1, 1, **fields)


@pytest.mark.parametrize(
    ("chance", "length", "expected"),
    [(0.7, 1, 1.70), (0.7, 2, 2.19), (0.7, 4, 2.77), (0.7, 8, 3.20), (0.8, 8, 4.33), (0.9, 4, 4.10), (0.9, 8, 6.13)],
)
def test_expected_tokens_of_a_chain(chance, length, expected):
    value = expected_tokens_per_call([chance] * length)
    assert value == pytest.approx(expected, abs=0.005)
    assert value == pytest.approx((1 - chance ** (length + 1)) / (1 - chance))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_expected_tokens_lie_between_none_and_all_accepted(chances):
    value = expected_tokens_per_call(chances)
    assert 1 <= value <= len(chances) + 1
    assert value == pytest.approx(1 + sum(math.prod(chances[: d + 1]) for d in range(len(chances))))


@given(st.floats(0.05, 0.95), st.integers(1, 6), st.integers(0, 1000))
def test_the_chance_of_a_simulated_chain_gives_back_its_tokens(chance, length, seed):
    """``a`` measured from the counters of a simulation is the ``a`` it was simulated with, and the formula its result."""
    draw, steps = random.Random(seed), 3000
    accepted = [0] * length
    for _ in range(steps):
        for depth in range(length):
            if draw.random() >= chance:
                break
            accepted[depth] += 1
    counts = DraftCounts(steps + sum(accepted), steps, (steps,) * length, tuple(accepted), steps * length)
    assert counts.chain_chance == pytest.approx(chance, abs=0.05)
    formula = expected_tokens_per_call([counts.chain_chance] * length)
    assert formula == pytest.approx(counts.tokens_per_call, rel=0.05)


def test_chances_outside_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match=r"chances must be in \[0, 1\], got 1.5"):
        expected_tokens_per_call([0.5, 1.5])


def test_speed_predicted_from_costs():
    assert predicted_speedup(3.0, 1.0) == 3.0
    assert predicted_speedup(3.0, 1.4, 0.1) == pytest.approx(2.0)
    with pytest.raises(ValueError, match=r"step_cost must be > 0 and drafting_cost >= 0, got 0.0 and 0.0"):
        predicted_speedup(3.0, 0.0)
    with pytest.raises(ValueError, match=r"got 1.0 and -0.1"):
        predicted_speedup(3.0, 1.0, -0.1)
