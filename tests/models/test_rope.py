"""Rotary positions: against complex numbers, against case-by-case scaling, and the property they exist for."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.models.config import RopeScaling
from jaxdec.models.rope import Rotation, inverse_frequencies, rotate, rotation, scale_frequencies
from tests.tiny_models import TINY

LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


def config(head_dim=8, theta=1e4, scaling=None):
    return dataclasses.replace(TINY, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([2, 8, 64, 128]), st.floats(1e2, 1e7))
def test_frequencies(head_dim, theta):
    expected = [theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    np.testing.assert_allclose(inverse_frequencies(config(head_dim, theta)), expected, rtol=3e-6)


def llama3_by_cases(frequency, scaling):
    """The cases of Llama 3.1's reference code, on wavelengths."""
    wavelength, context = 2 * math.pi / frequency, scaling.original_max_position_embeddings
    if wavelength < context / scaling.high_freq_factor:
        return frequency
    if wavelength > context / scaling.low_freq_factor:
        return frequency / scaling.factor
    smooth = (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


@settings(max_examples=25, deadline=None)
@given(
    factor=st.floats(1, 64),
    low=st.floats(0.5, 2),
    width=st.floats(0.1, 8),
    context=st.integers(64, 1 << 20),
    seed=st.integers(0, 99),
)
def test_llama3_scaling(factor, low, width, context, seed):
    scaling = RopeScaling("llama3", factor, low, low + width, context)
    frequencies = (10.0 ** np.random.default_rng(seed).uniform(-7, 0, 64)).astype(np.float32)
    expected = [llama3_by_cases(float(frequency), scaling) for frequency in frequencies]
    # In float32 the blend is uncertain by a few roundings of the cycles, stretched by the width of the blend.
    np.testing.assert_allclose(
        scale_frequencies(jnp.asarray(frequencies), scaling), expected, rtol=1e-5 * (1 + 1 / width)
    )


def test_llama3_scaling_uses_all_three_cases():
    plain, scaled = inverse_frequencies(config(64, 5e5)), inverse_frequencies(config(64, 5e5, LLAMA3))
    ratio = np.asarray(plain / scaled)
    assert np.isclose(ratio, 1).any()
    assert np.isclose(ratio, 8).any()
    assert ((ratio > 1.1) & (ratio < 7.9)).any()


def test_linear_scaling_is_position_interpolation():
    """Position 12 with factor 4 is position 3 without."""
    far = rotation(config(scaling=RopeScaling("linear", 4.0)), jnp.asarray([[12]]))
    near = rotation(config(), jnp.asarray([[3]]))
    for a, b in zip(far, near):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("head_dim", [2, 8, 64])
def test_rotation_is_multiplication_by_a_unit_complex_number(head_dim):
    rng = np.random.default_rng(head_dim)
    x, positions = rng.standard_normal((2, 30, 3, head_dim)), rng.integers(0, 4000, (2, 30))
    rotated = rotate(jnp.asarray(x, jnp.float32), *rotation(config(head_dim), jnp.asarray(positions)))
    half = head_dim // 2
    angles = positions[:, :, None, None] * 1e4 ** (-2 * np.arange(half) / head_dim)
    expected = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
    np.testing.assert_allclose(rotated, np.concatenate([expected.real, expected.imag], axis=-1), atol=2e-3)


def test_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    query, key = jnp.asarray(rng.standard_normal((2, 1, 50, 1, 8)), jnp.float32)
    query_at, key_at, shift = rng.integers(0, 500, (3, 1, 50))

    def scores(i, j):
        return (
            rotate(query, *rotation(config(), jnp.asarray(i))) * rotate(key, *rotation(config(), jnp.asarray(j)))
        ).sum(-1)

    near, far = scores(query_at, key_at), scores(query_at + shift, key_at + shift)
    np.testing.assert_allclose(near, far, atol=2e-3)
    assert not np.allclose(near, scores(query_at + shift, key_at), atol=2e-3)


def test_every_row_has_its_own_positions():
    positions = jnp.asarray([[0, 5], [3, 1]])
    cos, sin = rotation(config(), positions)
    assert cos.shape == sin.shape == (2, 2, 1, 4)
    np.testing.assert_array_equal(cos[0, 0], 1)
    np.testing.assert_array_equal(sin[0, 0], 0)
    np.testing.assert_allclose(cos[1, 0, 0, 0], math.cos(3), rtol=1e-6)


def test_the_type_of_the_vectors_stays():
    x = jnp.ones((1, 1, 1, 8), jnp.bfloat16)
    assert rotate(x, *rotation(config(), jnp.asarray([[3]]))).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yarn", 2.0), "kind of rope scaling must be 'linear' or 'llama3', got 'yarn'"),
        (("linear", 0.0), "factor of rope scaling must be positive and finite, got 0.0"),
        (("linear", math.nan), "factor of rope scaling must be positive and finite, got nan"),
        (("linear", math.inf), "factor of rope scaling must be positive and finite, got inf"),
        (("llama3", 8.0, 4.0, 4.0), "0 < low_freq_factor < high_freq_factor, got 4.0 and 4.0"),
        (("llama3", 8.0, 1.0, 4.0, 0), "original_max_position_embeddings of rope scaling must be at least 1, got 0"),
    ],
)
def test_scalings_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "architecture must be one of llama, qwen2, qwen3, got 'gpt2'"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be at least 1, got 0"),
        ({"num_kv_heads": 3}, r"num_heads \(4\) must be a multiple of num_kv_heads \(3\)"),
        ({"head_dim": 7}, "head_dim must be even for rotary positions, got 7"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps must be positive and finite, got 0.0"),
        ({"rope_theta": math.nan}, "rope_theta must be positive and finite, got nan"),
    ],
)
def test_configs_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_rotation_is_a_value_and_turns_back():
    turn = Rotation(config(scaling=LLAMA3))
    assert turn == Rotation(config(scaling=LLAMA3))
    assert hash(turn) == hash(Rotation(config(scaling=LLAMA3)))
    assert turn != Rotation(config())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 8)), jnp.float32)
    positions = jnp.asarray([[0, 7, 300]])
    rotated = rotate(x, *rotation(turn.config, positions))
    np.testing.assert_allclose(rotate(rotated, *turn(-positions)), x, atol=1e-5)
