"""Attention of new tokens to chosen pages equals the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import decode_attention, merge, sparse_decode_attention
from pallas_kernels.decode_attention.new_tokens import attend_new_tokens
from pallas_kernels.sparse_decode_attention.shapes import ODD, SHAPES, SparseDecodeShape
from tests.pallas_kernels.arrays import TOLERANCE, assert_states, expected_sparse, normal, sparse_decode_inputs

SMALL = {**ODD, **{name: shape.scaled(batch=2, pages=7, most=5) for name, shape in SHAPES.items()}}
QUICK = ("two choosers a key/value head", "large pages")
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(pytest.param(name, "float32", marks=() if name in QUICK else SLOW) for name in SMALL),
        ("llama-3-8b", "bfloat16"),
    ],
)
def test_equals_reference(name, dtype):
    arrays, pages = sparse_decode_inputs(SMALL[name], dtype)
    got = sparse_decode_attention(*arrays, **pages)
    assert got[0].dtype == got[1].dtype == jnp.float32
    assert_states(got, expected_sparse(arrays, pages), TOLERANCE[dtype])


@pytest.mark.slow
@settings(max_examples=3, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 3, 8]), st.sampled_from([2, 4]), st.integers(0, 10**6))
def test_pages_of_any_size(tokens, num_pages, page_size, choosers, seed):
    shape = SparseDecodeShape(2, tokens, num_pages, 4, 2, choosers, 8, page_size, most=5)
    arrays, pages = sparse_decode_inputs(shape, seed=seed)
    assert_states(sparse_decode_attention(*arrays, **pages), expected_sparse(arrays, pages), 1e-5)


def test_all_pages_and_the_new_tokens_are_decode_attention():
    shape = SparseDecodeShape(3, 2, 5, 4, 2, 2, 8, 8, most=5)
    (q, k, v, _, index, count), pages = sparse_decode_inputs(shape)
    k, v = normal(1, k.shape, v.shape)
    lengths = jnp.array([0, 38, 17])
    index = jnp.broadcast_to(jnp.arange(5)[::-1], index.shape)
    old = sparse_decode_attention(q, k, v, lengths, index, jnp.full_like(count, 5), **pages)
    k, v = (side.swapaxes(1, 2) for side in (k, v))
    visible = jnp.broadcast_to(jnp.tril(jnp.ones((2, 2), bool)), (3, 2, 2))
    new = attend_new_tokens(q, k, v, lengths, visible, 8**-0.5)
    assert_states(merge([old, new]), decode_attention(q, k, v, lengths), 1e-5)


def test_what_is_not_listed_is_not_read():
    shape = SparseDecodeShape(2, 1, 9, 4, 2, 2, 8, 8, most=4)
    (q, k, v, _, index, count), pages = sparse_decode_inputs(shape)
    k, v = normal(1, k.shape, v.shape)
    arrays = (q, k, v, jnp.array([72, 60]), index, count)
    listed = np.zeros((2, 2, 9), bool)
    for row, head in np.ndindex(2, 2):
        listed[row, head, np.asarray(index)[row, head, 0, : count[row, head, 0]]] = True
    listed = np.repeat(listed, 8, axis=2)[..., None]
    assert not listed.all()
    fenced = (q, *(jnp.where(listed, side, jnp.nan) for side in (k, v)), *arrays[3:])
    assert_states(sparse_decode_attention(*fenced, **pages), expected_sparse(arrays, pages), 1e-5)


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_batch():
    arrays, pages = sparse_decode_inputs(SparseDecodeShape(5, 2, 9, 4, 2, 2, 16, 8, 4))
    call = jax.jit(functools.partial(sparse_decode_attention, **pages))
    together = call(*arrays)
    for rows in ([0, 1], [4, 2, 3]):
        for alone, all_rows in zip(call(*(array[np.array(rows)] for array in arrays)), together):
            np.testing.assert_array_equal(alone, all_rows[np.array(rows)])


def test_gradient_reaches_what_is_read_and_nothing_else():
    shape = SparseDecodeShape(2, 2, 3, 4, 2, 2, 8, 8, most=2)
    (q, k, v, _, index, count), pages = sparse_decode_inputs(shape, seed=2)
    k, v = normal(1, k.shape, v.shape)
    lengths, weights = jnp.array([24, 13]), normal(3, q.shape, q.shape[:-1])
    mask = np.zeros((2, 4, 2, 24), bool)
    for row, head, token in np.ndindex(2, 4, 2):
        listed = np.asarray(index)[row, head // 2, token][: count[row, head // 2, token]]
        mask[row, head, token] = np.isin(np.arange(24) // 8, listed) & (np.arange(24) < lengths[row])
    reads = mask.any(-1, keepdims=True)

    def total(o, lse):
        return (o * weights[0]).sum() + jnp.where(lse == -jnp.inf, 0, lse * weights[1]).sum()

    def dense(q, k, v):
        k, v = (jnp.repeat(side, 2, axis=1) for side in (k, v))
        scores = jnp.where(mask | ~reads, jnp.einsum("bthd,bhsd->bhts", q, k) * 8**-0.5, -jnp.inf)
        lse = jnp.where(reads[..., 0], jax.nn.logsumexp(scores, axis=-1), -jnp.inf)
        o = jnp.einsum("bhts,bhsd->bthd", jnp.where(reads, jax.nn.softmax(scores), 0), v)
        return total(o, lse.swapaxes(1, 2))

    loss = lambda *floats: total(*sparse_decode_attention(*floats, lengths, index, count, **pages))  # noqa: E731
    for ours, theirs in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v), jax.jit(jax.grad(dense, (0, 1, 2)))(q, k, v)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


Q, K, LENGTHS = jnp.zeros((2, 3, 4, 8)), jnp.zeros((2, 2, 12, 8)), jnp.array([12, 0])
INDEX, COUNT = jnp.zeros((2, 2, 3, 2), int), jnp.ones((2, 2, 3), int)
ARRAYS = {"q": Q, "k": K, "v": K, "lengths": LENGTHS, "page_index": INDEX, "num_pages": COUNT}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": Q[0]}, ValueError, r"q must have shape \[B, T, Hq, D\]; got \[3, 4, 8\]"),
        ({"q": Q[:, :0]}, ValueError, r"q must have at least one new token; got \[2, 0, 4, 8\]"),
        ({"k": K[0]}, ValueError, r"k must have shape \[B, Hkv, S, D\]; got \[2, 12, 8\]"),
        ({"v": K[:, :, 1:]}, ValueError, r"v must have the shape of k, \[2, 2, 12, 8\]; got \[2, 2, 11, 8\]"),
        ({"k": K[:1], "v": K[:1]}, ValueError, "k must have the 2 rows of q; got 1"),
        ({"q": Q[:, :, 1:]}, ValueError, "q must have a multiple of k's 2 heads; got 3"),
        ({"q": Q.astype("bfloat16")}, TypeError, "got q bfloat16, k float32, v float32"),
        ({"lengths": LENGTHS + 1}, ValueError, r"lengths must be in 0..12; got 13"),
        ({"lengths": LENGTHS * 1.0}, TypeError, "lengths must be integers; got float32"),
        ({"page_index": COUNT}, ValueError, r"page_index must have shape \[B, C, T, M\]; got \[2, 2, 3\]"),
        (
            {"page_index": INDEX[:, :1]},
            ValueError,
            r"page_index must have lists for 2 key/value heads, 4 query heads, or groups between; got 1",
        ),
        (
            {"page_index": jnp.zeros((2, 8, 3, 2), int)},
            ValueError,
            r"page_index must have lists for 2 key/value heads, 4 query heads, or groups between; got 8",
        ),
        (
            {"page_index": INDEX[:, :, 1:]},
            ValueError,
            r"page_index must have shape \[2, 2, 3, M\], .*; got \[2, 2, 2, 2\]",
        ),
        ({"page_index": INDEX * 1.0}, TypeError, "page_index must be integers; got float32"),
        ({"page_index": INDEX + 3}, ValueError, r"page_index must be in 0..2 where it is read; got 3"),
        ({"num_pages": COUNT + 2}, ValueError, r"num_pages must be in 0..2; got 3"),
        ({"num_pages": COUNT[0]}, ValueError, r"num_pages must have shape \[2, 2, 3\]; got \[2, 3\]"),
        ({"page_size": 5}, ValueError, "page_size must divide k's 12 slots; got 5"),
        ({"page_size": 0}, ValueError, "page_size must be an integer of at least 1, .*; got 0"),
        ({"scale": 0.0}, ValueError, "scale must be a positive number, .*; got 0.0"),
        ({"implementation": "cuda"}, ValueError, "implementation must be None or one of .*'cuda'"),
    ],
)
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        sparse_decode_attention(**{**ARRAYS, "page_size": 4, **changes})
