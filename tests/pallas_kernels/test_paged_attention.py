"""Attention to caches in pages of a pool is attention to the same caches in one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import decode_attention
from pallas_kernels.decode_attention import BACKENDS
from pallas_kernels.decode_attention.reference import decode_attention as plain_decode_attention
from pallas_kernels.decode_attention.shapes import ODD, SHAPES, DecodeShape
from tests.pallas_kernels.arrays import (
    TOLERANCE,
    assert_states,
    decode_inputs,
    expected_decode,
    normal,
    tree_mask,
    wide,
)
from tests.pallas_kernels.test_tpu import interpreted, lower
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

SMALL = {**ODD, **{name: shape.scaled(batch=3, slots=70) for name, shape in SHAPES.items()}}
PAGES = {"one of each": 1, "as many tokens as slots": 3, "five heads a group": 16, "a block and one": 128}


def in_pages(q, k, v, lengths, page: int, seed: int = 0):
    """The same rows cut into pages that lie in the pool in any order.

    Pages that no row uses hold NaN, and table entries behind those in use are any numbers.
    """
    batch, slots = k.shape[:2]
    width = -(-slots // page) + 1
    generator = np.random.default_rng(seed)
    num_pages = batch * width + 2
    table = generator.permutation(num_pages)[: batch * width].reshape(batch, width).astype(np.int32)
    pools = []
    for array in (k, v):
        pool = np.full((num_pages, page, *k.shape[2:]), np.nan)
        padded = np.pad(wide(array), ((0, 0), (0, width * page - slots), (0, 0), (0, 0)), constant_values=np.nan)
        pool[table] = padded.reshape(batch, width, page, *k.shape[2:])
        pools.append(jnp.asarray(pool, k.dtype))
    unused = np.arange(width) * page >= np.asarray(lengths)[:, None] + q.shape[1]
    rubbish = generator.choice([-7, num_pages, num_pages + 99, *range(num_pages)], table.shape)
    return q, *pools, lengths, jnp.asarray(np.where(unused, rubbish, table), jnp.int32)


def attend(q, k, v, lengths, table, **options):
    return decode_attention(q, k, v, lengths, page_table=table, **options)


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in SMALL), ("smollm2-135m", "bfloat16")])
def test_equals_reference(name, dtype):
    inputs = decode_inputs(SMALL[name], dtype)
    paged = in_pages(*inputs, page=PAGES.get(name, 32))
    got = attend(*paged)
    assert got[0].dtype == got[1].dtype == jnp.float32
    expected = expected_decode(*inputs)
    assert_states(got, expected, TOLERANCE[dtype])
    q, k, v, lengths, table = paged
    causal = np.broadcast_to(np.tri(q.shape[1], dtype=bool), (len(q), q.shape[1], q.shape[1]))
    plain = plain_decode_attention(
        *map(wide, (q, k, v)), np.asarray(lengths), causal, q.shape[-1] ** -0.5, page_table=table
    )
    for ours, theirs in zip(plain, expected):
        np.testing.assert_array_equal(ours, theirs)  # the reference reads the same numbers


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([(6, 4), (600, 24), (600, 700)]), st.integers(0, 10**6))
def test_draft_trees_and_odd_pages(batch, tokens, sizes, seed):
    slots, page = sizes
    inputs = decode_inputs(DecodeShape(batch, tokens, slots, 6, 2, 8), seed=seed)
    visible = tree_mask(batch, tokens, seed)
    got = attend(*in_pages(*inputs, page=page, seed=seed), visible=visible)
    assert_states(got, expected_decode(*inputs, visible), 1e-5)


@pytest.mark.parametrize("num_splits", [1, 3, 600])
def test_number_of_splits_changes_rounding_only(num_splits):
    inputs = decode_inputs(DecodeShape(3, 2, 600, 4, 2, 8))
    paged = in_pages(*inputs, page=48)
    got = jax.jit(lambda *inputs: attend(*inputs, num_splits=num_splits))(*paged)
    assert_states(got, expected_decode(*inputs), 1e-5)


def test_where_pages_lie_changes_nothing():
    """To the bit, also when other rows are beside it."""
    inputs = decode_inputs(DecodeShape(5, 4, 700, 6, 2, 64))
    call = jax.jit(attend)
    o, lse = call(*in_pages(*inputs, page=64, seed=1))
    for got, expected in zip(call(*in_pages(*inputs, page=64, seed=2)), (o, lse)):
        np.testing.assert_array_equal(got, expected)
    for rows in ([0, 1], [4, 2], [1, 3, 0]):
        some = call(*in_pages(*(array[np.array(rows)] for array in inputs), page=64, seed=3))
        for got, together in zip(some, (o, lse)):
            np.testing.assert_array_equal(got, together[np.array(rows)])


def test_rows_may_read_the_same_pages():
    q, k, v, _ = decode_inputs(DecodeShape(2, 1, 40, 4, 2, 8))
    k, v, lengths = (*(jnp.stack([array[0], array[0]]) for array in (k, v)), jnp.array([39, 20]))
    q, pool_k, pool_v, _, table = in_pages(q, k, v, jnp.array([39, 39]), page=8)
    got = attend(q, pool_k, pool_v, lengths, table.at[1].set(table[0]))
    assert_states(got, expected_decode(q, k, v, lengths), 1e-5)


@pytest.mark.slow
def test_gradient_is_that_of_the_cache_in_one_piece():
    inputs = decode_inputs(DecodeShape(3, 2, 40, 4, 2, 8))
    q, pool_k, pool_v, lengths, table = in_pages(*inputs, page=8)
    weights = normal(3, q.shape, q.shape[:-1])

    def loss(q, k, v, **options):
        got = decode_attention(q, k, v, lengths, num_splits=2, **options)
        return sum((result * weight).sum() for result, weight in zip(got, weights))

    gradient = jax.jit(jax.grad(lambda *arrays: loss(*arrays, page_table=table), (0, 1, 2)))(q, pool_k, pool_v)
    expected = jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs[:3])
    np.testing.assert_allclose(gradient[0], expected[0], atol=1e-5)
    for pool, whole in zip(gradient[1:], expected[1:]):
        np.testing.assert_allclose(float(abs(pool).sum()), float(abs(whole).sum()), rtol=1e-5)
        for row, used in enumerate(np.asarray(lengths) + 2):
            slots = np.arange(used)
            got = pool[np.asarray(table)[row, slots // 8], slots % 8]
            np.testing.assert_allclose(got, whole[row, :used], atol=1e-5)


@pytest.mark.parametrize("num_splits", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_tpu_kernel_equals_reference(num_splits):
    inputs = decode_inputs(DecodeShape(3, 2, 200, 6, 2, 64))
    visible = tree_mask(3, 2)
    call = lambda *inputs: attend(*inputs, visible=visible, num_splits=num_splits, implementation="tpu")  # noqa: E731
    got = interpreted(call, *in_pages(*inputs, page=32))
    assert_states(got, expected_decode(*inputs, visible), TOLERANCE["float32"])


@pytest.mark.parametrize("page", [pytest.param(16, marks=pytest.mark.slow), 128])
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_tpu_kernel_lowers_at_real_shapes(name, dtype, page):
    shape = SHAPES[name]
    pages = shape.slots // page
    pool = jax.ShapeDtypeStruct((shape.batch * pages // 2, page, shape.num_kv_heads, shape.head_dim), dtype)
    lower(
        lambda *arrays: attend(*arrays, num_splits=4, implementation="tpu"),
        jax.ShapeDtypeStruct((shape.batch, shape.tokens, shape.num_heads, shape.head_dim), dtype),
        pool,
        pool,
        jax.ShapeDtypeStruct((shape.batch,), np.int32),
        jax.ShapeDtypeStruct((shape.batch, pages), np.int32),
    )


@pytest.mark.slow
def test_tpu_gradient_is_that_of_xla():
    q, k, v, lengths, table = in_pages(*decode_inputs(DecodeShape(2, 1, 40, 2, 1, 64)), page=16)

    def gradient(implementation):
        loss = lambda *arrays: attend(*arrays, lengths, table, implementation=implementation)[0].sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

    with pltpu.force_tpu_interpret_mode():
        got, expected = gradient("tpu"), gradient("xla")
    for ours, theirs in zip(got, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


Q, POOL, LENGTHS = jnp.zeros((2, 3, 4, 64)), jnp.zeros((5, 4, 2, 64)), jnp.array([6, 0])
TABLE = jnp.array([[0, 1, 4], [3, -1, 9]])


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (TABLE[0], {}, ValueError, r"page_table must have shape \[B, M\]; got \[3\]"),
        (TABLE[:1], {}, ValueError, r"page_table must have shape \[2, 3\]; got \[1, 3\]"),
        (TABLE * 1.0, {}, TypeError, "page_table must be integers; got float32"),
        (TABLE.at[0, 2].set(5), {}, ValueError, r"page_table must have pages in 0..4 where a row has tokens; got 5"),
        (TABLE.at[1, 0].set(-1), {}, ValueError, r"page_table must have pages in 0..4 where .*; got -1"),
        (TABLE[:, :2], {}, ValueError, r"lengths must be in 0..5; got 6"),
        (TABLE[:, :0], {}, ValueError, r"q must have 1..0 new tokens, as many as a row has slots at most; got 3"),
        (TABLE, {"implementation": "tpu"}, NotImplementedError, "tpu: takes pages of a multiple of 16 slots, .* got 4"),
    ],
)
def test_refuses(table, options, error, message):
    attend(Q, POOL, POOL, LENGTHS, TABLE)
    with pytest.raises(error, match=message):
        attend(Q, POOL, POOL, LENGTHS, table, **options)


@pytest.mark.parametrize("implementation", [name for name in BACKENDS if name not in ("tpu", "xla")])
def test_other_kernels_take_no_pages(implementation):
    with pytest.raises(NotImplementedError, match=f"{implementation}: takes no pages"):
        attend(Q, POOL, POOL, LENGTHS, TABLE, implementation=implementation)


def test_a_page_too_large_for_the_kernel_is_refused():
    pool = jnp.zeros((2, 1024, 2, 64))
    with pytest.raises(
        NotImplementedError, match="tpu: takes pages of a multiple of 16 slots, 512 at most here, got 1024"
    ):
        attend(Q, pool, pool, LENGTHS, jnp.array([[0], [1]]), implementation="tpu")
