"""Attention of prompts to listed blocks equals the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import block_sparse_attention, merge
from pallas_kernels.block_sparse_attention.shapes import ODD, SHAPES, BlockSparseShape
from pallas_kernels.listed_attention.xla import even_pieces
from tests.pallas_kernels.arrays import (
    TOLERANCE,
    assert_states,
    block_sparse_inputs,
    expected_decode,
    expected_sparse,
    normal,
)

SMALL = {**ODD, **{name: shape.scaled(batch=2, tokens=70, most=3) for name, shape in SHAPES.items()}}


def inputs_with_lists(shape, choose):
    """Inputs whose lists are ``choose(row, head, block)``."""
    arrays, blocks = block_sparse_inputs(shape)
    at = np.ndindex(shape.batch, shape.num_heads, shape.num_blocks)
    chosen = [choose(*place) for place in at]
    lead, most = (shape.batch, shape.num_heads, shape.num_blocks), max(map(len, chosen))
    index = np.array([[*one, *[-1] * (most - len(one))] for one in chosen]).reshape(*lead, most)
    return (*arrays[:4], index, np.array([len(one) for one in chosen]).reshape(lead)), blocks


QUICK = ("three heads a group, a block and one", "shorter than a block")
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(pytest.param(name, "float32", marks=() if name in QUICK else SLOW) for name in SMALL),
        ("llama-3-8b", "bfloat16"),
    ],
)
def test_equals_reference(name, dtype):
    arrays, blocks = block_sparse_inputs(SMALL[name], dtype)
    got = block_sparse_attention(*arrays, **blocks)
    assert got[0].dtype == got[1].dtype == jnp.float32
    assert_states(got, expected_sparse(arrays, blocks), TOLERANCE[dtype])


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 3, 8]), st.sampled_from([1, 5, 8]), st.integers(0, 10**6))
def test_blocks_of_any_size(tokens, block_q, block_k, seed):
    shape = BlockSparseShape(2, tokens, 4, 2, 8, block_q, block_k, most=4)
    arrays, blocks = block_sparse_inputs(shape, seed=seed)
    assert_states(block_sparse_attention(*arrays, **blocks), expected_sparse(arrays, blocks), 1e-5)


def test_all_blocks_are_causal_attention():
    """In whatever order they are listed, also those behind the queries."""
    shape = BlockSparseShape(2, 40, 4, 2, 8, block_q=8, block_k=8, most=6)
    order = np.random.default_rng(0).permutation(6)
    (q, k, v, lengths, *lists), blocks = inputs_with_lists(shape, lambda *place: order)
    o, lse = block_sparse_attention(q, k, v, lengths, *lists, **blocks)
    for row, length in enumerate(np.asarray(lengths)):
        one = [side[row : row + 1, :length] for side in (q, k, v)]
        if length:  # all of a text are new tokens
            assert_states((o[row, :length], lse[row, :length]), [x[0] for x in expected_decode(*one, [0])], 1e-5)
        assert not np.asarray(o[row, length:]).any()
        assert (lse[row, length:] == -jnp.inf).all()


@pytest.mark.slow
def test_lists_that_halve_a_selection_merge_to_it():
    """Which is how keys that are in no block are added."""
    shape = BlockSparseShape(2, 64, 2, 1, 8, block_q=16, block_k=8, most=4)
    whole, blocks = inputs_with_lists(shape, lambda row, head, block: range(0, 2 * block + 2, 1 + head))
    halves = [
        inputs_with_lists(shape, lambda row, head, block, half=half: [*range(0, 2 * block + 2, 1 + head)][half::2])[0]
        for half in (0, 1)
    ]
    attend = functools.partial(block_sparse_attention, **blocks)
    assert_states(merge([attend(*half) for half in halves]), attend(*whole), 1e-5)


def test_what_is_not_listed_is_not_read():
    """NaN in every block of keys that no list in use has, and in the values of all others."""
    shape = BlockSparseShape(1, 64, 2, 1, 8, block_q=16, block_k=8, most=4)
    (q, k, v, lengths, index, count), blocks = inputs_with_lists(shape, lambda row, head, block: [2 * block, 0, 3][:3])
    expected = expected_sparse((q, k, v, lengths, index, count), blocks)
    listed = np.isin(np.arange(67) // 8, index[0])
    k, v = (jnp.where(listed[:, None, None], side, jnp.nan) for side in (k, v))
    assert_states(block_sparse_attention(q, k, v, lengths, index, count, **blocks), expected, 1e-5)


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_batch():
    arrays, blocks = block_sparse_inputs(BlockSparseShape(4, 50, 4, 2, 16, 16, 16, 3))
    call = jax.jit(functools.partial(block_sparse_attention, **blocks))
    together = call(*arrays)
    for rows in ([0, 1], [3, 2]):
        for alone, all_rows in zip(call(*(array[np.array(rows)] for array in arrays)), together):
            np.testing.assert_array_equal(alone, all_rows[np.array(rows)])


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_scores_stay_finite(size):
    q, k = jnp.full((1, 20, 1, 1), size), jnp.ones((1, 20, 1, 1))
    index, count = jnp.array([[[[0, 9, 9], [1, 0, 9], [2, 1, 0]]]]), jnp.array([[[1, 2, 3]]])
    o, lse = block_sparse_attention(q, k, 3 * k, jnp.array([20]), index, count, block_q=8, block_k=8, scale=1.0)
    np.testing.assert_allclose(o, 3, rtol=1e-5)
    np.testing.assert_allclose(lse[0, :, 0], size + np.log(1 + np.arange(20)), rtol=1e-6)


@pytest.mark.slow
def test_gradient_equals_that_of_masked_attention():
    shape = BlockSparseShape(2, 20, 4, 2, 8, block_q=8, block_k=4, most=4)
    (q, k, v, lengths, index, count), blocks = block_sparse_inputs(shape, seed=1)
    lengths = jnp.array([20, 13])
    q, k, v = (
        jnp.where(jnp.isnan(side) & (np.arange(side.shape[1]) < 13)[:, None, None], 0.5, side) for side in (q, k, v)
    )
    weights = normal(3, q.shape, q.shape[:-1])
    used = np.arange(20) < np.asarray(lengths)[:, None]
    weights = [weights[0] * used[..., None, None], weights[1] * used[..., None]]
    mask = np.zeros((2, 4, 20, 23), bool)
    for row, head, token in np.ndindex(2, 4, 20):
        if used[row, token]:
            listed = np.asarray(index)[row, head, token // 8][: count[row, head, token // 8]]
            mask[row, head, token] = np.isin(np.arange(23) // 4, listed) & (np.arange(23) <= token)

    def total(o, lse):
        return (o * weights[0]).sum() + jnp.where(lse == -jnp.inf, 0, lse * weights[1]).sum()

    def loss(q, k, v):
        return total(*block_sparse_attention(q, k, v, lengths, index, count, **blocks))

    def dense(q, k, v):
        q = jnp.where(used[..., None, None], q, 0)
        k, v = (jnp.where((np.arange(23) < np.asarray(lengths)[:, None])[..., None, None], side, 0) for side in (k, v))
        k, v = (jnp.repeat(side, 2, axis=2) for side in (k, v))
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * 8**-0.5
        reads = mask.any(-1, keepdims=True)
        weight = jnp.where(reads, jax.nn.softmax(jnp.where(mask | ~reads, scores, -jnp.inf)), 0)
        lse = jnp.where(reads[..., 0], jax.nn.logsumexp(jnp.where(mask | ~reads, scores, -jnp.inf), axis=-1), -jnp.inf)
        return total(jnp.einsum("bhts,bshd->bthd", weight, v), lse.swapaxes(1, 2))

    for ours, theirs in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v), jax.jit(jax.grad(dense, (0, 1, 2)))(q, k, v)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


Q, K, LENGTHS = jnp.zeros((2, 9, 4, 8)), jnp.zeros((2, 11, 2, 8)), jnp.array([9, 0])
INDEX, COUNT = jnp.zeros((2, 4, 3, 2), int), jnp.ones((2, 4, 3), int)
ARRAYS = {"q": Q, "k": K, "v": K, "lengths": LENGTHS, "block_index": INDEX, "num_blocks": COUNT}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": Q[0]}, ValueError, r"q must have shape \[B, T, Hq, D\]; got \[9, 4, 8\]"),
        ({"k": K[0]}, ValueError, r"k must have shape \[B, S, Hkv, D\]; got \[11, 2, 8\]"),
        ({"v": K[:, 1:]}, ValueError, r"v must have the shape of k, \[2, 11, 2, 8\]; got \[2, 10, 2, 8\]"),
        ({"k": K[:1], "v": K[:1]}, ValueError, "k must have the 2 rows of q; got 1"),
        ({"q": Q[:, :, 1:]}, ValueError, "q must have a multiple of k's 2 heads; got 3"),
        ({"q": Q.astype("bfloat16")}, TypeError, "got q bfloat16, k float32, v float32"),
        ({"k": K[:, :8], "v": K[:, :8]}, ValueError, r"q must have 1..8 tokens, as many as k has slots at most; got 9"),
        ({"lengths": LENGTHS + 1}, ValueError, r"lengths must be in 0..9; got 10"),
        ({"lengths": LENGTHS * 1.0}, TypeError, "lengths must be integers; got float32"),
        (
            {"block_index": INDEX[:, :2]},
            ValueError,
            r"block_index must have shape \[2, 4, 3, M\], .*; got \[2, 2, 3, 2\]",
        ),
        ({"block_index": COUNT}, ValueError, r"block_index must have shape \[2, 4, 3, M\], .*; got \[2, 4, 3\]"),
        ({"block_index": INDEX[..., :0]}, ValueError, r"M at least 1; got \[2, 4, 3, 0\]"),
        ({"block_index": INDEX * 1.0}, TypeError, "block_index must be integers; got float32"),
        ({"block_index": INDEX + 3}, ValueError, r"block_index must be in 0..2 where it is read; got 3"),
        ({"block_index": INDEX - 1}, ValueError, r"block_index must be in 0..2 where it is read; got -1"),
        ({"num_blocks": COUNT + 2}, ValueError, r"num_blocks must be in 0..2; got 3"),
        ({"num_blocks": COUNT[0]}, ValueError, r"num_blocks must have shape \[2, 4, 3\]; got \[4, 3\]"),
        ({"block_q": 0}, ValueError, "block_q must be an integer of at least 1, .*; got 0"),
        ({"block_k": 4.0}, ValueError, "block_k must be an integer of at least 1, .*; got 4.0"),
        ({"scale": 0.0}, ValueError, "scale must be a positive number, .*; got 0.0"),
        ({"implementation": "cuda"}, ValueError, "implementation must be None or one of .*'cuda'"),
    ],
)
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        block_sparse_attention(**{**ARRAYS, "block_q": 4, "block_k": 4, **changes})


@given(count=st.integers(1, 300), most=st.integers(1, 40))
def test_lists_are_cut_into_as_few_pieces_as_can_be_with_little_to_fill_up(count, most):
    piece = even_pieces(count, most)
    assert 1 <= piece <= most
    pieces = -(-count // piece)
    assert pieces == -(-count // most)
    assert 0 <= pieces * piece - count < pieces
