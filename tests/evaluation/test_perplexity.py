"""Perplexity and divergence against laws known exactly, and refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.evaluation import mean_interval
from jaxdec.evaluation.perplexity import (
    kl_divergence,
    next_token_log_probs,
    perplexity,
    perplexity_change,
    surprisal,
    windows,
)
from tests.tiny_models import markov_model, tiny_transformer


def test_every_token_but_the_first_is_scored_by_the_law_of_the_one_before():
    model, table = markov_model(num_states=5, seed=3)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 9)).astype(np.int32)
    laws = next_token_log_probs(model, jnp.asarray(tokens))
    assert laws.shape == (2, 8, 5)
    np.testing.assert_allclose(jnp.exp(laws), table[tokens[:, :-1]], atol=1e-6)
    scored = surprisal(laws, jnp.asarray(tokens[:, 1:]))
    np.testing.assert_allclose(scored, -np.log(table[tokens[:, :-1], tokens[:, 1:]]), atol=1e-5)


def test_a_law_is_that_of_the_text_before_it_and_of_no_other_row():
    model = tiny_transformer()
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 41)
    laws = next_token_log_probs(model, tokens)
    alone = next_token_log_probs(model, tokens[1:, :7])
    np.testing.assert_allclose(laws[1:, :6], alone, atol=2e-4)
    np.testing.assert_allclose(jnp.exp(laws).sum(-1), 1, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([2, 7]))
def test_divergence_is_that_of_plain_python_and_nought_for_equal_laws(seed, size):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.ones(size), size=(1, 3)).astype(np.float32) + 1e-6 for _ in range(2))
    found = kl_divergence(jnp.log(p), jnp.log(q))
    expected = [sum(float(a) * math.log(a / b) for a, b in zip(p[0, i], q[0, i])) for i in range(3)]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_array_equal(kl_divergence(jnp.log(p), jnp.log(p)), 0)


def test_divergence_is_infinite_where_the_other_excludes_what_may_come_and_only_there():
    certain, even = jnp.log(jnp.array([[[1.0, 0.0]]])), jnp.log(jnp.array([[[0.5, 0.5]]]))
    assert float(kl_divergence(certain, even)[0, 0]) == pytest.approx(math.log(2))
    assert math.isinf(kl_divergence(even, certain)[0, 0])


def test_perplexity_of_a_uniform_law_is_the_number_of_its_tokens():
    assert perplexity([math.log(8)] * 5) == pytest.approx(8)
    assert perplexity([0.0, math.log(4)]) == pytest.approx(2)  # the geometric mean, not the mean of perplexities


def test_the_change_is_the_ratio_of_perplexities_and_its_interval_is_paired():
    rng = np.random.default_rng(2)
    reference = rng.normal(3, 1, 40)  # windows differ widely
    other = reference + rng.normal(0.02, 0.01, 40)  # the models do not
    found = perplexity_change(reference, other)
    assert found.mean == pytest.approx(perplexity(other) / perplexity(reference) - 1)
    assert 0.01 < found.low < found.mean < found.high < 0.03
    plain = mean_interval(other - reference)
    assert (found.low, found.high) == pytest.approx((math.expm1(plain.low), math.expm1(plain.high)))
    assert perplexity_change(reference, reference) == (0, 0, 0)
    assert perplexity_change(other, reference).mean < 0


def test_windows_follow_each_other_and_the_rest_is_dropped():
    np.testing.assert_array_equal(windows(range(11), 3), [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    np.testing.assert_array_equal(windows(range(11), 3, 2), [[0, 1, 2], [3, 4, 5]])
    assert windows(range(6), 3).dtype == np.int32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: windows([1, 2, 3], 1), r"width must be at least 2 \(the first token is not scored\), got 1"),
        (lambda: windows([1, 2, 3], 2, 0), "count must be at least 1, got 0"),
        (lambda: windows([1, 2, 3], 2, 2), "tokens has 3 ids, fewer than 2 windows of 2"),
        (lambda: windows([1, 2, 3], 4), "tokens has 3 ids, fewer than 1 windows of 4"),
        (lambda: perplexity([]), "surprisals is empty"),
        (lambda: perplexity_change([1.0], [1.0, 2.0]), r"the same windows, got shapes \(1,\) and \(2,\)"),
        (lambda: perplexity_change([1.0], [math.nan]), "samples holds nan"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
