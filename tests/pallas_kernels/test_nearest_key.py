"""The nearest key equals the reference: exactly among integers, and as far as rounding goes elsewhere."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.nearest_key import nearest_key, xla
from pallas_kernels.nearest_key.reference import nearest_key as plain_nearest_key
from pallas_kernels.nearest_key.shapes import ODD, SHAPES, CodebookShape

SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
SMALL = {**ODD, **{name: shape.scaled(codebooks=3, queries=20, keys=70) for name, shape in SHAPES.items()}}


def codebooks(shape: CodebookShape, dtype: str = "float32", seed: int = 0, integers: bool = False):
    """``(queries, keys, used)``: a third of the keys is not in use, and holds NaN."""
    generator = np.random.default_rng(seed)
    draw = (lambda size: generator.integers(-2, 3, size)) if integers else (lambda size: generator.normal(size=size))
    queries = draw((shape.codebooks, shape.queries, shape.width))
    keys = draw((shape.codebooks, shape.keys, shape.width)).astype(np.float64)
    used = generator.random(keys.shape[:2]) < 2 / 3
    used[:, generator.integers(shape.keys)] = True
    keys[~used] = np.nan
    return jnp.asarray(queries, dtype), jnp.asarray(keys, dtype), jnp.asarray(used)


def assert_nearest(got, arrays, tolerance: float):
    """The distance is the least one, and that of the key that was found, which is in use."""
    index, distance = map(np.asarray, got)
    queries, keys, used = (np.asarray(array) for array in arrays)
    _, least = plain_nearest_key(queries, keys, used)
    assert np.take_along_axis(used, index, axis=1).all()
    found = np.take_along_axis(keys.astype(np.float64), index[..., None], axis=1)
    theirs = np.square(queries.astype(np.float64) - found).sum(-1)
    np.testing.assert_allclose(theirs, least, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(distance, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name if name == "wide" else SLOW(name) for name in SMALL])
@pytest.mark.parametrize("dtype", [SLOW("float32"), "bfloat16"])
def test_equals_reference(name, dtype):
    arrays = codebooks(SMALL[name], dtype)
    got = jax.jit(nearest_key)(*arrays)
    assert (got[0].dtype, got[1].dtype) == (jnp.int32, jnp.float32)
    assert_nearest(got, arrays, 1e-5)


@pytest.mark.slow
def test_float64():
    with jax.enable_x64(True):
        arrays = codebooks(CodebookShape(2, 7, 33, 9), "float64")
        got = nearest_key(*arrays)
        assert (got[0].dtype, got[1].dtype) == (jnp.int32, jnp.float64)
        assert_nearest(got, arrays, 1e-12)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 keys."""
    monkeypatch.setattr(xla, "SCORES_OF_A_BLOCK", 1)
    xla.nearest_key.clear_cache()
    yield
    xla.nearest_key.clear_cache()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("offset", [SLOW(0), 10_000])
def test_ties_go_to_the_first_key_from_block_to_block(offset):
    """Among few integers most distances are shared by several keys; squares of 10,000 would leave no room for them."""
    queries, keys, used = codebooks(CodebookShape(3, 50, 200, 3), integers=True)
    index, distance = jax.jit(nearest_key)(queries + offset, keys + offset, used)
    expected = plain_nearest_key(queries, keys, used)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(distance, expected[1])


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70), st.integers(1, 5), st.integers(0, 10**6))
def test_integers_of_any_shape(num_codebooks, num_queries, num_keys, width, seed):
    arrays = codebooks(CodebookShape(num_codebooks, num_queries, num_keys, width), seed=seed, integers=True)
    for got, expected in zip(nearest_key(*arrays), plain_nearest_key(*arrays)):
        np.testing.assert_array_equal(got, expected)


def test_what_queries_and_keys_have_in_common_does_not_matter():
    """The expanded square would be off by ten here, and distances are near one."""
    queries, keys, _ = (np.asarray(array) for array in codebooks(CodebookShape(2, 60, 90, 4)))
    keys = np.nan_to_num(keys)
    _, far = jax.jit(nearest_key)(queries + np.float32(1e4), keys + np.float32(1e4))
    np.testing.assert_allclose(far, plain_nearest_key(queries, keys)[1], rtol=0.02, atol=0.02)


def test_a_codebook_without_a_key_in_use():
    queries, keys, used = codebooks(CodebookShape(3, 5, 9, 4))
    none = used.at[1].set(False)
    keys = keys.at[1].set(jnp.nan)
    index, distance = jax.jit(nearest_key)(queries, keys, none)
    assert (index[1] == -1).all()
    assert (distance[1] == jnp.inf).all()
    np.testing.assert_array_equal(index[::2], plain_nearest_key(queries, keys, used)[0][::2])
    with pytest.raises(ValueError, match="used must have a key in use in every codebook; got none in codebook 1"):
        nearest_key(queries, keys, none)


def test_distances_have_a_gradient():
    queries, keys, used = codebooks(CodebookShape(2, 5, 9, 4))
    index, _ = plain_nearest_key(queries, keys, used)
    gradient = jax.jit(jax.grad(lambda queries: nearest_key(queries, keys, used)[1].sum()))(queries)
    found = np.take_along_axis(np.asarray(keys), index[..., None], axis=1)
    np.testing.assert_allclose(gradient, 2 * (queries - found), rtol=1e-5)


def largest(call, *arrays) -> int:
    """Numbers in the largest array of a compiled program."""
    shapes = re.findall(r"\w+\[([\d,]+)\]", jax.jit(call).lower(*arrays).compile().as_text())
    return max(int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes)


def test_distances_of_all_pairs_are_never_in_memory():
    shape = CodebookShape(16, 64, 2048, 3)
    queries, keys, _ = codebooks(shape)
    keys = jnp.nan_to_num(keys)
    pairs = shape.codebooks * shape.queries * shape.keys

    def materialised(queries, keys):
        return (jnp.square(keys).sum(-1)[:, None] - 2 * jnp.einsum("cne,cke->cnk", queries, keys)).argmin(-1)

    assert largest(nearest_key, queries, keys) <= pairs // shape.codebooks
    assert largest(materialised, queries, keys) >= pairs


Q, K = jnp.zeros((2, 3, 4)), jnp.zeros((2, 5, 4))


@pytest.mark.parametrize(
    ("queries", "keys", "options", "error", "message"),
    [
        (Q[0], K, {}, ValueError, r"queries must have shape \[C, N, E\]; got \[3, 4\]"),
        (Q, K[0], {}, ValueError, r"keys must have shape \[C, K, E\]; got \[5, 4\]"),
        (Q[:, :0], K, {}, ValueError, r"queries must have no empty axis; got \[2, 0, 4\]"),
        (Q, K[:, :0], {}, ValueError, r"keys must have no empty axis; got \[2, 0, 4\]"),
        (Q[:1], K, {}, ValueError, "queries must have the 2 codebooks of keys; got 1"),
        (Q[..., :3], K, {}, ValueError, "queries must have the 4 numbers in a key of keys; got 3"),
        (Q.astype(int), K, {}, TypeError, "queries must have one of the types .*; got int32"),
        (Q, K.astype("bfloat16"), {}, TypeError, "one type; got queries float32, keys bfloat16"),
        (Q, K, {"used": jnp.ones((2, 5))}, TypeError, "used must be bool; got float32"),
        (Q, K, {"used": jnp.ones((5,), bool)}, ValueError, r"used must have shape \[2, 5\]; got \[5\]"),
        (
            Q,
            K,
            {"implementation": "hopper"},
            ValueError,
            "implementation must be None or one of tpu, xla; got 'hopper'",
        ),
    ],
)
def test_refuses(queries, keys, options, error, message):
    with pytest.raises(error, match=message):
        nearest_key(queries, keys, **options)
