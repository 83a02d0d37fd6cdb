"""Attention of new tokens to the slots of their row equals the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import decode_attention, merge, prefix_attention
from pallas_kernels.decode_attention.shapes import ODD, SHAPES, DecodeShape
from tests.pallas_kernels.arrays import TOLERANCE, assert_states, decode_inputs, expected_decode, normal, tree_mask
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

SMALL = {**ODD, **{name: shape.scaled(batch=3, slots=70) for name, shape in SHAPES.items()}}


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in SMALL), ("smollm2-135m", "bfloat16")])
def test_equals_reference(name, dtype):
    inputs = decode_inputs(SMALL[name], dtype)
    got = decode_attention(*inputs)
    assert got[0].dtype == got[1].dtype == jnp.float32
    assert_states(got, expected_decode(*inputs), TOLERANCE[dtype])


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([6, 600]), st.integers(0, 10**6))
def test_draft_trees(batch, tokens, slots, seed):
    inputs = decode_inputs(DecodeShape(batch, tokens, slots, 6, 2, 8), seed=seed)
    visible = tree_mask(batch, tokens, seed)
    assert_states(decode_attention(*inputs, visible=visible), expected_decode(*inputs, visible), 1e-5)


def test_a_token_that_sees_nothing():
    q, k, v, _ = decode_inputs(DecodeShape(2, 3, 5, 4, 2, 8))
    inputs = q, k, v, jnp.array([0, 2])
    k, v = (array.at[1].set(1.0).at[0, 3:].set(jnp.nan) for array in (k, v))
    visible = np.tile(np.tri(3, dtype=bool), (2, 1, 1))
    visible[:, 1] = False
    o, lse = decode_attention(q, k, v, inputs[3], visible=visible)
    assert_states((o, lse), expected_decode(q, k, v, inputs[3], visible), 1e-5)
    assert (lse[0, 1] == -jnp.inf).all()
    assert jnp.isfinite(lse[1, 1]).all()


@pytest.mark.parametrize("num_splits", [1, 2, 3, 7, 600])
def test_number_of_splits_changes_rounding_only(num_splits):
    inputs = decode_inputs(DecodeShape(3, 2, 600, 4, 2, 8))
    got = jax.jit(lambda *inputs: decode_attention(*inputs, num_splits=num_splits))(*inputs)
    assert_states(got, expected_decode(*inputs), 1e-5)


@pytest.mark.parametrize("num_splits", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_a_row_does_not_depend_on_the_batch(num_splits):
    """To the bit from two rows on; a loop that runs once is compiled to something else, which rounds in its own way."""
    q, k, v, lengths = decode_inputs(DecodeShape(5, 4, 700, 6, 2, 64))
    call = jax.jit(lambda *inputs: decode_attention(*inputs, num_splits=num_splits))
    o, lse = call(q, k, v, lengths)
    for rows in ([0, 1], [4, 2], [1, 3, 0]):
        for alone, together in zip(call(*(array[np.array(rows)] for array in (q, k, v, lengths))), (o, lse)):
            np.testing.assert_array_equal(alone, together[np.array(rows)])
    assert_states(call(q[3:4], k[3:4], v[3:4], lengths[3:4]), (o[3:4], lse[3:4]), 1e-6)


def test_permuting_rows_permutes_the_result():
    inputs = decode_inputs(DecodeShape(4, 2, 50, 4, 2, 8))
    order = np.array([2, 0, 3, 1])
    o, lse = decode_attention(*inputs)
    for got, expected in zip(decode_attention(*(array[order] for array in inputs)), (o, lse)):
        np.testing.assert_array_equal(got, expected[order])


def test_prefix_and_suffix_merge_to_the_whole_text():
    """A step of Hydragen: two groups of rows share a prefix each, every row has a suffix of its own."""
    rows, tokens, prefix, slots = 6, 3, 37, 20
    shape = DecodeShape(rows, tokens, slots, 6, 2, 16)
    q, k, v, lengths = decode_inputs(shape)
    shared_k, shared_v = normal(7, *[(2, prefix, 2, 16)] * 2)
    suffix = decode_attention(q, k, v, lengths)
    flat = prefix_attention(q.reshape(-1, 6, 16), shared_k, shared_v)
    shared = [array.reshape(rows, tokens, *array.shape[1:]) for array in flat]
    group = np.repeat([0, 1], 3)
    whole = [jnp.concatenate([a[group], b], axis=1) for a, b in ((shared_k, k), (shared_v, v))]
    assert_states(merge([tuple(shared), suffix]), expected_decode(q, *whole, lengths + prefix), 1e-5)


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_scores_stay_finite(size):
    q, k = jnp.full((1, 2, 1, 1), size), jnp.ones((1, 600, 1, 1))
    o, lse = decode_attention(q, k, 3 * k, jnp.array([598]), scale=1.0)
    np.testing.assert_allclose(o, 3, rtol=1e-5)
    np.testing.assert_allclose(lse[0, :, 0], size + np.log([599, 600]), rtol=1e-6)


@pytest.mark.parametrize("num_splits", [None, 3])
def test_gradient_equals_that_of_dense_attention(num_splits):
    q, k, v, lengths = decode_inputs(DecodeShape(3, 2, 40, 4, 2, 8))
    visible = tree_mask(3, 2)
    weights = normal(3, q.shape, q.shape[:-1])

    def loss(q, k, v):
        got = decode_attention(q, k, v, lengths, visible=visible, num_splits=num_splits)
        return sum((result * weight).sum() for result, weight in zip(got, weights))

    def dense(q, k, v):
        slot, token = np.arange(40), np.arange(2)
        readable = np.zeros((3, 2, 40), bool)
        for row, length in enumerate(np.asarray(lengths)):
            readable[row, :, :length] = True
            readable[row][:, length + token] = visible[row]  # a view: indexing both at once would transpose
        in_use = slot < np.asarray(lengths)[:, None] + 2
        k, v = (jnp.repeat(jnp.where(in_use[..., None, None], array, 0), 2, axis=2) for array in (k, v))
        scores = jnp.einsum("bthd,bshd->bths", q, k) * 8**-0.5
        scores = jnp.where(readable[:, :, None], scores, -jnp.inf)
        o = jnp.einsum("bths,bshd->bthd", jax.nn.softmax(scores), v)
        return (o * weights[0]).sum() + (jax.nn.logsumexp(scores, axis=-1) * weights[1]).sum()

    for ours, theirs in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v), jax.jit(jax.grad(dense, (0, 1, 2)))(q, k, v)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


Q, K, LENGTHS = jnp.zeros((2, 3, 4, 8)), jnp.zeros((2, 9, 2, 8)), jnp.array([6, 0])


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((Q[0], K, K, LENGTHS), {}, ValueError, r"q must have shape \[B, T, Hq, D\]; got \[3, 4, 8\]"),
        ((Q, K[0], K[0], LENGTHS), {}, ValueError, r"k must have shape \[B, S, Hkv, D\]; got \[9, 2, 8\]"),
        ((Q, K[:1], K[:1], LENGTHS), {}, ValueError, "k must have the 2 rows of q; got 1"),
        ((Q[:, :, 1:], K, K, LENGTHS), {}, ValueError, "q must have a multiple of k's 2 heads; got 3"),
        ((Q, K, K.astype("bfloat16"), LENGTHS), {}, TypeError, "got q float32, k float32, v bfloat16"),
        ((Q, K[:, :2], K[:, :2], LENGTHS), {}, ValueError, r"q must have 1..2 new tokens, .*; got 3"),
        ((Q[:, :0], K, K, LENGTHS), {}, ValueError, r"q must have 1..9 new tokens, .*; got 0"),
        ((Q, K, K, LENGTHS + 1), {}, ValueError, r"lengths must be in 0..6; got 7"),
        ((Q, K, K, LENGTHS - 1), {}, ValueError, r"lengths must be in 0..6; got -1"),
        ((Q, K, K, LENGTHS * 1.0), {}, TypeError, "lengths must be integers; got float32"),
        ((Q, K, K, LENGTHS[:1]), {}, ValueError, r"lengths must have shape \[2\]; got \[1\]"),
        ((Q, K, K, LENGTHS), {"visible": jnp.ones((2, 3, 3))}, TypeError, "visible must be bool; got float32"),
        (
            (Q, K, K, LENGTHS),
            {"visible": jnp.ones((3, 3), bool)},
            ValueError,
            r"visible must have shape \[2, 3, 3\]; got \[3, 3\]",
        ),
        ((Q, K, K, LENGTHS), {"num_splits": 0}, ValueError, r"num_splits must be None or in 1..9; got 0"),
        ((Q, K, K, LENGTHS), {"num_splits": 10}, ValueError, r"num_splits must be None or in 1..9; got 10"),
        ((Q, K, K, LENGTHS), {"scale": -1.0}, ValueError, "scale must be a positive number, .*; got -1.0"),
        ((Q, K, K, LENGTHS), {"implementation": "cuda"}, ValueError, "implementation must be None or one of .*'cuda'"),
    ],
)
def test_refuses(arrays, options, error, message):
    with pytest.raises(error, match=message):
        decode_attention(*arrays, **options)
