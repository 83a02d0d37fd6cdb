"""Processed distributions against plain NumPy, and draws against the distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import GREEDY, Sampling
from jaxdec.decoding.sampling import nucleus
from tests.contracts.checks import process

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.05, 1.0),
    min_p=st.none() | st.floats(0.0, 0.9),
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), samplings, st.sampled_from([0.1, 1.0, 5.0]))
def test_log_probs_equal_numpy(seed, sampling, sharpness):
    logits = np.random.default_rng(seed).normal(size=(2, 12)) * sharpness
    table = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = process(table, sampling)
    found = np.exp(np.asarray(sampling.log_probs(jnp.asarray(logits, jnp.float32)), np.float64))
    # A token whose cumulative mass meets top_p to rounding may fall on either side.
    same_support = ((found > 0) == (expected > 0)).all(-1)
    assert same_support.any() or sampling.top_p is not None
    np.testing.assert_allclose(found[same_support], expected[same_support], atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(1e-3, 1.0), st.sampled_from([1, 2, 7, 40]), st.sampled_from([0.3, 3.0, 30.0]))
def test_the_nucleus_is_the_smallest_set_that_reaches_the_mass(seed, mass, size, sharpness):
    probs = np.asarray(jax.nn.softmax(sharpness * np.random.default_rng(seed).normal(size=size)), np.float32)
    kept = np.asarray(nucleus(jnp.asarray(probs), mass))
    slack = 1e-6
    assert probs[kept].sum() >= min(mass, probs.sum()) - slack
    assert kept[probs >= probs[kept].min()].all(), "a kept token is never less probable than a dropped one"
    without_the_edge = kept & (probs > probs[kept].min())
    assert probs[without_the_edge].sum() < mass + slack, "a smaller set would do"


def test_ties_at_a_threshold_are_all_kept():
    logits = jnp.log(jnp.asarray([0.4, 0.2, 0.2, 0.2]))
    assert np.isfinite(Sampling(top_k=2).log_probs(logits)).sum() == 4
    assert np.isfinite(Sampling(top_p=0.5).log_probs(logits)).sum() == 4
    assert np.isfinite(Sampling(min_p=0.5).log_probs(logits)).sum() == 4
    assert np.isfinite(Sampling(min_p=0.51).log_probs(logits)).sum() == 1


def test_keeping_everything_changes_nothing():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9)), jnp.float32)
    plain = Sampling().log_probs(logits)
    np.testing.assert_allclose(plain, jax.nn.log_softmax(logits), atol=1e-6)
    for sampling in (Sampling(top_k=9), Sampling(top_k=99), Sampling(top_p=1.0), Sampling(min_p=0.0)):
        np.testing.assert_array_equal(sampling.log_probs(logits), plain)


def test_draws_follow_the_distribution_and_their_own_keys():
    logits = jnp.asarray([[0.5, 1.0, -2.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    sampling = Sampling(temperature=1.3, top_k=3)
    keys = jax.random.split(jax.random.key(0), (8000, 2))
    draws = np.asarray(sampling.draw(keys, jnp.broadcast_to(logits, (8000, 2, 4))))
    for row in range(2):
        law = np.exp(sampling.log_probs(logits[row]), dtype=np.float64)
        counts = np.bincount(draws[:, row], minlength=4)
        assert counts[law == 0].sum() == 0
        assert scipy.stats.chisquare(counts[law > 0], 8000 * law[law > 0] / law.sum()).pvalue > 1e-4
    np.testing.assert_array_equal(sampling.draw(keys[5], logits), draws[5])


def test_greedy_takes_the_first_of_the_best():
    logits = jnp.asarray([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    assert GREEDY.draw(keys, logits).tolist() == [1, 0]
    np.testing.assert_array_equal(np.exp(GREEDY.log_probs(logits)), [[0, 1, 0], [1, 0, 0]])
    assert Sampling(temperature=0).greedy
    assert not Sampling(temperature=1e-3).greedy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, "temperature must be a finite number >= 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a finite number >= 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a finite number >= 0, got inf"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\] .* got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\] .* got 1.1"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\] .* got nan"),
        ({"min_p": 1.0}, r"min_p must be in \[0, 1\) .* got 1.0"),
        ({"min_p": -0.1}, r"min_p must be in \[0, 1\) .* got -0.1"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)
