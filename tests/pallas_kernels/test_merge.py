"""Merging attention states is a commutative monoid."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pallas_kernels import merge
from pallas_kernels.merge.reference import merge as plain_merge
from pallas_kernels.merge.shapes import SHAPES
from tests.pallas_kernels.arrays import TOLERANCE, assert_states, normal


def states(count, shape, seed=0, dtype="float32", empty=0.3):
    """Attention states of very different weight, some of them empty."""
    generator = np.random.default_rng(seed)
    parts = []
    for index in range(count):
        (o,) = normal(seed + index, shape, dtype=dtype)
        lse = generator.normal(scale=5, size=shape[:-1])
        hole = generator.random(shape[:-1]) < empty
        parts.append((jnp.where(hole[..., None], 0, o), jnp.asarray(np.where(hole, -np.inf, lse), jnp.float32)))
    return parts


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equals_reference(name, count):
    parts = states(count, SHAPES[name])
    assert_states(merge(parts), plain_merge(parts), TOLERANCE["float32"])


def test_bfloat16_parts_are_summed_in_float32():
    parts = states(4, (16, 64), dtype="bfloat16")
    o, lse = merge(parts)
    assert o.dtype == lse.dtype == jnp.float32
    assert_states((o, lse), plain_merge([(np.asarray(o, np.float32), lse) for o, lse in parts]), 1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(-50, 50))
def test_is_a_commutative_monoid(seed, count, shift):
    parts = states(count + 2, (3, 2, 5), seed)
    expected = merge(parts)
    for order in itertools.islice(itertools.permutations(parts), 1, None, 7):
        assert_states(merge(order), expected, 1e-5)
    left = right = None
    for part in parts:
        left = part if left is None else merge([left, part])
    for part in reversed(parts):
        right = part if right is None else merge([part, right])
    assert_states(left, expected, 1e-5)
    assert_states(right, expected, 1e-5)
    identity = (jnp.zeros_like(parts[0][0]), jnp.full_like(parts[0][1], -jnp.inf))
    for with_identity in ([identity, *parts], [*parts, identity]):
        assert_states(merge(with_identity), expected, 1e-6)
    shifted = merge([(o, lse + shift) for o, lse in parts])
    assert_states(shifted, (expected[0], expected[1] + shift), 1e-4)


def test_log_sum_exp_of_the_merge_is_that_of_the_parts():
    parts = states(6, (40, 3), empty=0)
    _, lse = merge(parts)
    np.testing.assert_allclose(lse, jax.nn.logsumexp(jnp.stack([lse for _, lse in parts]), axis=0), rtol=1e-6)


def test_all_empty_is_empty_whatever_lies_in_it():
    o = jnp.full((2, 3, 4), jnp.nan)
    merged, lse = merge([(o, jnp.full((2, 3), -jnp.inf))] * 3)
    np.testing.assert_array_equal(merged, 0)
    np.testing.assert_array_equal(lse, -jnp.inf)


def test_nan_in_a_part_that_counts_is_not_hidden():
    o, lse = merge([(jnp.ones((1, 2)), jnp.array([jnp.nan])), (jnp.ones((1, 2)), jnp.zeros(1))])
    assert jnp.isnan(o).all()
    assert jnp.isnan(lse).all()


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_log_sum_exps_stay_finite(size):
    o, lse = merge([(jnp.ones((1, 2)), jnp.array([size])), (3 * jnp.ones((1, 2)), jnp.array([size]))])
    np.testing.assert_allclose(o, 2)
    np.testing.assert_allclose(lse, size + np.log(2), rtol=1e-6)


def test_gradient_equals_differences_and_is_zero_for_empty_parts():
    with jax.enable_x64(True):
        parts = [(jnp.asarray(o, jnp.float64), jnp.asarray(lse, jnp.float64)) for o, lse in states(3, (2, 3), empty=0)]
        parts.append((jnp.zeros((2, 3)), jnp.full((2,), -jnp.inf)))
        weights = normal(9, (2, 3), (2,), dtype="float64")

        def loss(finite):
            o, lse = merge([*finite, parts[-1]])
            return (o * weights[0]).sum() + (lse * weights[1]).sum()

        check_grads(loss, (parts[:-1],), order=1, modes=["rev", "fwd"])
        gradient = jax.grad(lambda parts: sum(array.sum() for array in merge(parts)))(parts)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        np.testing.assert_array_equal(gradient[-1][0], 0)
    all_empty = [(jnp.zeros((2, 3)), jnp.full((2,), -jnp.inf))] * 2
    gradient = jax.grad(lambda parts: merge(parts)[0].sum())(all_empty)
    assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ValueError, "parts must hold at least one attention state; got none"),
        ([(jnp.zeros((2, 3)), jnp.zeros(3))], ValueError, r"lse of part 0 must have shape \[2\]; got \[3\]"),
        (
            [(jnp.zeros((2, 3)), jnp.zeros(2)), (jnp.zeros((2, 4)), jnp.zeros(2))],
            ValueError,
            r"o of part 1 must have the shape of the first, \[2, 3\]; got \[2, 4\]",
        ),
        ([(jnp.zeros((2, 3), int), jnp.zeros(2))], TypeError, "o of part 0 must have one of the types .*; got int32"),
        ([(jnp.zeros((2, 3)), jnp.zeros(2, int))], TypeError, "lse of part 0 must have one of the types .*; got int32"),
    ],
)
def test_refuses(parts, error, message):
    with pytest.raises(error, match=message):
        merge(parts)


def test_refuses_an_unknown_implementation():
    with pytest.raises(ValueError, match="implementation must be None or one of xla; got 'tpu'"):
        merge(states(2, (2, 3)), implementation="tpu")
