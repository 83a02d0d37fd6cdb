"""Rates, their gradient and their invariances; how good the approximations are, and where they break down."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.objectives.coding_rate import (
    coding_rate,
    compression_step,
    layer_rate,
    nonzero_fraction,
    sparse_rate_reduction,
    subspace_attention,
    subspace_rate,
    subspace_rate_gradient,
)

TOKENS, WIDTH, SUBSPACES, INSIDE = 10, 24, 6, 4


def problem(seed: int = 0, scale: float = 1.0):
    """Tokens, and orthonormal bases that together span the space."""
    rng = np.random.default_rng(seed)
    tokens = scale * rng.normal(size=(TOKENS, WIDTH))
    whole = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    return tokens, whole.reshape(WIDTH, SUBSPACES, INSIDE).transpose(1, 0, 2)


def epsilon_of(a: float) -> float:
    """The precision at which the factor ``P / (N e^2)`` is ``a``."""
    return (INSIDE / (TOKENS * a)) ** 0.5


def cosine(x, y):
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (2, 3, 6, 4)])
def test_both_gram_matrices_give_the_rate(shape):
    tokens = np.random.default_rng(1).normal(size=shape)
    number, width = shape[-2:]
    columns = np.linalg.slogdet(np.eye(width) + width / (number * 0.3**2) * tokens.swapaxes(-1, -2) @ tokens)[1] / 2
    rows = np.linalg.slogdet(np.eye(number) + width / (number * 0.3**2) * tokens @ tokens.swapaxes(-1, -2))[1] / 2
    np.testing.assert_allclose(columns, rows, rtol=1e-10)
    np.testing.assert_allclose(coding_rate(jnp.asarray(tokens), 0.3), rows, rtol=1e-10)


def test_rates_know_no_axes_and_no_order():
    tokens, bases = problem()
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]
    order = np.random.default_rng(3).permutation(TOKENS)
    within = float(subspace_rate(jnp.asarray(tokens), jnp.asarray(bases), 0.5))
    turned = subspace_rate(jnp.asarray(tokens @ turn.T), jnp.asarray(np.einsum("ij,kjp->kip", turn, bases)), 0.5)
    np.testing.assert_allclose(turned, within, rtol=1e-10)
    np.testing.assert_allclose(subspace_rate(jnp.asarray(tokens[order]), jnp.asarray(bases), 0.5), within, rtol=1e-10)
    whole = float(coding_rate(jnp.asarray(tokens), 0.5))
    np.testing.assert_allclose(coding_rate(jnp.asarray(tokens @ turn.T), 0.5), whole, rtol=1e-10)
    # One more token must be coded: a rate that is blind to its input would pass all of the above.
    assert float(coding_rate(jnp.asarray(2 * tokens), 0.5)) > whole


def test_the_gradient_in_closed_form():
    tokens, bases = problem()
    for a in (0.1, 6.4):
        epsilon = epsilon_of(a)
        automatic = jax.grad(lambda z, e=epsilon: subspace_rate(z, jnp.asarray(bases), e))(jnp.asarray(tokens))
        closed = subspace_rate_gradient(jnp.asarray(tokens), jnp.asarray(bases), epsilon)
        np.testing.assert_allclose(closed, automatic, rtol=1e-9, atol=1e-12)


def test_attention_is_the_gradient_only_while_the_factor_is_small():
    """At a = 6.4 a step of attention goes up, not down."""
    tokens, bases = problem()
    found = {}
    for a in (0.025, 0.4, 6.4):
        true = np.asarray(subspace_rate_gradient(jnp.asarray(tokens), jnp.asarray(bases), epsilon_of(a)))
        step = compression_step(jnp.asarray(tokens), jnp.asarray(bases), epsilon_of(a), 1.0)
        found[a] = cosine(true, tokens - np.asarray(step))
    assert found[0.025] > 0.98
    assert found[0.4] > 0.85
    assert found[6.4] < 0


def test_the_step_is_attention_and_a_pull_to_zero():
    tokens, bases = problem()
    z, u, epsilon, kappa = jnp.asarray(tokens), jnp.asarray(bases), 0.7, 0.3
    a = INSIDE / (TOKENS * epsilon**2)
    inside = np.einsum("nd,kdp->knp", tokens, bases)
    scores = np.exp(inside @ inside.swapaxes(1, 2))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ inside
    attended = a * np.einsum("knp,kdp->nd", mixed, bases)
    np.testing.assert_allclose(subspace_attention(z, u, epsilon), attended, rtol=1e-9)
    np.testing.assert_allclose(
        compression_step(z, u, epsilon, kappa), (1 - kappa * a) * tokens + kappa * a * attended, rtol=1e-9
    )


def test_exact_steps_compress_and_sort_tokens_into_their_subspaces():
    rng = np.random.default_rng(4)
    _, bases = problem()
    labels = rng.integers(0, SUBSPACES, 40)
    tokens = np.einsum("ndp,np->nd", bases[labels], rng.normal(size=(40, INSIDE))) + 0.2 * rng.normal(size=(40, WIDTH))
    z, u = jnp.asarray(tokens), jnp.asarray(bases)

    @jax.jit
    def step(z):
        return z - 0.3 * subspace_rate_gradient(z, u, 0.5), subspace_rate(z, u, 0.5)

    rates = []
    for _ in range(20):
        z, rate = step(z)
        rates.append(float(rate))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_the_objective_is_what_it_says():
    tokens, bases = problem()
    z, u = jnp.asarray(tokens), jnp.asarray(bases)
    value = sparse_rate_reduction(z, u, 0.5, 0.1)
    np.testing.assert_allclose(value, coding_rate(z, 0.5) - subspace_rate(z, u, 0.5) - 0.1 * np.abs(tokens).sum())


def test_probes():
    """As in the authors' code: unit tokens per head, N x N determinants, 0.01 for the squared precision."""
    inside = np.random.default_rng(5).normal(size=(2, 3, TOKENS, INSIDE))
    unit = inside / np.linalg.norm(inside, axis=-1, keepdims=True)
    gram = np.eye(TOKENS) + INSIDE / (TOKENS * 0.01) * unit @ unit.swapaxes(-1, -2)
    np.testing.assert_allclose(layer_rate(jnp.asarray(inside)), np.linalg.slogdet(gram)[1].sum(-1) / 2, rtol=1e-9)
    np.testing.assert_allclose(layer_rate(jnp.asarray(7 * inside)), layer_rate(jnp.asarray(inside)), rtol=1e-9)
    codes = np.maximum(inside[:, 0], 0)
    np.testing.assert_allclose(nonzero_fraction(jnp.asarray(codes)), (codes > 0).mean((-1, -2)), rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    tokens, bases = (jnp.asarray(x) for x in problem())
    for call in (
        lambda: coding_rate(tokens, 0.0),
        lambda: subspace_rate(tokens, bases, -1.0),
        lambda: subspace_rate_gradient(tokens, bases, float("nan")),
    ):
        with pytest.raises(ValueError, match="epsilon must be positive"):
            call()
    with pytest.raises(ValueError, match="step_size must be positive"):
        compression_step(tokens, bases, 0.5, 0.0)
    with pytest.raises(ValueError, match="sparsity_weight must be at least 0"):
        sparse_rate_reduction(tokens, bases, 0.5, -0.1)
