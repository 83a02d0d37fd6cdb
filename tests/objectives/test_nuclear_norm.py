"""The nuclear norm against singular values in float64: values, gradients where they are easy and where not, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.objectives.nuclear_norm import nuclear_norm, polar_factor
from tests.quick_jit import quick_jit

METHODS = ("gram", "svd")
RNG = np.random.default_rng(0)


def with_spectrum(rows, columns, spectrum):
    """A matrix with these singular values, in float64, and its gradient ``U_r V_r^T``."""
    left = np.linalg.qr(RNG.normal(size=(rows, rows)))[0][:, : len(spectrum)]
    right = np.linalg.qr(RNG.normal(size=(columns, columns)))[0][:, : len(spectrum)]
    return left * spectrum @ right.T, left * (np.asarray(spectrum) > 0) @ right.T


@functools.partial(quick_jit, static_argnums=1)
def value_and_grad(matrix, method):
    return jax.value_and_grad(lambda x: nuclear_norm(x, method))(matrix)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "spectrum"),
    [
        ((9, 4), (3.0, 2.0, 1.0, 0.5)),
        ((4, 9), (3.0, 2.0, 1.0, 0.5)),
        ((6, 6), (2.0, 2.0, 2.0, 1.0, 1.0, 0.5)),  # repeated
        ((6, 6), (2.0, 1.0, 1.0, 0.0, 0.0, 0.0)),  # of rank 3
        ((9, 4), (1.0, 0.0, 0.0, 0.0)),  # of rank 1: what total collapse is
        ((4, 9), (0.0, 0.0, 0.0, 0.0)),
        ((6, 6), (1.0,) * 6),  # orthogonal
    ],
)
def test_value_and_gradient(method, shape, spectrum):
    matrix, expected = with_spectrum(*shape, spectrum)
    value, gradient = value_and_grad(jnp.asarray(matrix, jnp.float32), method)
    assert float(value) == pytest.approx(sum(spectrum), rel=2e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_the_slope(method):
    matrix = jnp.asarray(RNG.normal(size=(7, 5)), jnp.float32)
    change = jnp.asarray(RNG.normal(size=(7, 5)), jnp.float32)
    slope = float(jnp.vdot(value_and_grad(matrix, method)[1], change))
    s = [np.linalg.svd(np.asarray(matrix + sign * 1e-3 * change, np.float64))[1].sum() for sign in (1, -1)]
    assert (s[0] - s[1]) / 2e-3 == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_small_singular_values_count(method):
    """Square roots of the Gram matrix's eigenvalues would be off by 1e-4 here."""
    spectrum = (1.0, 1e-1, 1e-2, 1e-3, 5e-5)
    matrix, _ = with_spectrum(8, 5, spectrum)
    value, gradient = value_and_grad(jnp.asarray(matrix, jnp.float32), method)
    assert float(value) == pytest.approx(sum(spectrum), abs={"gram": 2e-5, "svd": 1e-6}[method])
    assert np.linalg.norm(gradient) == pytest.approx(5**0.5, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_maps_agree(method):
    matrices = jnp.asarray(RNG.normal(size=(2, 3, 4, 6)), jnp.float32)
    expected = np.linalg.svd(np.asarray(matrices, np.float64), compute_uv=False).sum(-1)
    batched, factors = quick_jit(lambda x: (nuclear_norm(x, method), polar_factor(x, method)[0]))(matrices)
    np.testing.assert_allclose(batched, expected, rtol=1e-5)
    mapped = quick_jit(jax.vmap(jax.vmap(jax.grad(lambda x: nuclear_norm(x, method)))))(matrices)
    np.testing.assert_allclose(mapped, factors, atol=1e-5)


def test_bfloat16_is_computed_in_float32():
    matrix = jnp.asarray(RNG.normal(size=(6, 4)), jnp.bfloat16)
    value, gradient = value_and_grad(matrix, "auto")
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    exact = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False).sum()
    assert float(value) == pytest.approx(exact, rel=1e-5)


def test_what_is_not_finite_shows():
    matrix = np.ones((9, 4), np.float32)
    matrix[0, 0] = np.nan
    for method in METHODS:
        assert np.isnan(value_and_grad(matrix, method)[0])


def test_bad_input():
    with pytest.raises(ValueError, match="method must be one of auto, gram, svd; got 'qr'"):
        nuclear_norm(jnp.ones((2, 2)), "qr")
    with pytest.raises(ValueError, match=r"at least one row and one column, got shape \(3, 0\)"):
        nuclear_norm(jnp.ones((3, 0)))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2048, 512), (64, 64), (32, 128)])
def test_gradients_at_the_shapes_of_training(method, shape):
    """Spectra from 1 to 1/10, half of the values pairwise equal."""
    spectrum = np.repeat(np.linspace(1.0, 0.1, min(shape) // 2), 2)
    matrix, expected = with_spectrum(*shape, spectrum)
    value, gradient = value_and_grad(jnp.asarray(matrix, jnp.float32), method)
    assert float(value) == pytest.approx(spectrum.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
