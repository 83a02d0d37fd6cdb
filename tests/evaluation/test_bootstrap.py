"""The bootstrap interval: coverage of the true mean, and refusals."""

import math

import numpy as np
import pytest

from jaxdec.evaluation import bootstrap, mean_interval


def test_it_contains_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = mean_interval(rng.exponential(size=80), confidence=0.8, resamples=300, seed=seed)
        assert found.low <= found.mean <= found.high
        hits += found.low <= 1 <= found.high
    assert 140 <= hits <= 178  # 160 of 200 expected, a few fewer for skewed samples; three standard deviations are 17


def test_it_is_of_normal_width_and_reproducible():
    samples = np.random.default_rng(1).normal(3.0, 2.0, 400)
    found = mean_interval(samples)
    assert found.mean == pytest.approx(samples.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * samples.std() / 20, rel=0.1)
    assert mean_interval(samples) == found
    assert mean_interval([5.0]) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize("size", [1, 7, 130])
def test_pieces_are_the_draws_one_by_one(size, monkeypatch):
    samples = np.random.default_rng(2).normal(size=size)
    rng = np.random.default_rng(4)
    means = [samples[rng.integers(0, size, size)].mean() for _ in range(50)]
    tail = (1 - 0.95) / 2
    expected = (samples.mean(), *np.quantile(means, [tail, 1 - tail]))
    for at_once in (1, 3 * size, 1 << 20):
        monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", at_once)
        assert mean_interval(samples, resamples=50, seed=4) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"samples must be a list of at least one number, got shape \(0,\)"),
        (lambda: mean_interval([1.0, math.nan]), "samples holds nan"),
        (lambda: mean_interval([1.0], confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: mean_interval([1.0], resamples=0), "resamples must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
