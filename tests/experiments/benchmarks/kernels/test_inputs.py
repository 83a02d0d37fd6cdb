"""Arrays in several layouts hold the same numbers, and the reference is dense attention over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.kernels.inputs import MOST_SETS, expected, make, num_sets, random_key
from experiments.benchmarks.kernels.shapes import KernelShape

KEY = random_key(3)
WHOLE = KernelShape("whole_attention", 3, 11, 5, 4, 2, 8, "float32")
PREFIX = WHOLE._replace(operation="prefix_attention", suffix=0)
DECODE = PREFIX._replace(operation="decode_attention")
MERGE = KernelShape("merge", 3, 0, 0, 4, 2, 8, "bfloat16")


def dense(q, k, v):
    """Plain attention of ``q [B, Hq, D]`` to all of ``k [B, S, Hkv, D]``."""
    k, v = (jnp.repeat(array, q.shape[1] // k.shape[2], axis=2) for array in (k, v))
    weights = jax.nn.softmax(jnp.einsum("bhd,bshd->bhs", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bhs,bshd->bhd", weights, v)


@pytest.mark.parametrize(("shape", "layout"), [(PREFIX, "shared"), (WHOLE, "split")])
def test_copies_are_copies(shape, layout):
    q, *ours = make(KEY, layout, shape)
    q_rows, k, v, lengths = make(KEY, "rows", shape)
    np.testing.assert_array_equal(q.reshape(q_rows.shape), q_rows)
    for place, array in enumerate((k, v)):
        prefix = jnp.broadcast_to(ours[place], (3, *ours[place].shape[1:]))
        np.testing.assert_array_equal(array[:, : shape.prefix], prefix)
        if shape.suffix:
            np.testing.assert_array_equal(array[:, shape.prefix :], ours[place + 2])
            assert not np.array_equal(array[0, shape.prefix :], array[1, shape.prefix :])
    assert lengths.tolist() == [shape.prefix + shape.suffix - 1] * 3
    if shape.suffix:
        assert ours[-1].tolist() == [shape.suffix - 1] * 3
    np.testing.assert_allclose(expected(layout, (q, *ours)), dense(q_rows[:, 0], k, v), atol=1e-5)
    np.testing.assert_allclose(expected("rows", (q_rows, k, v, lengths)), dense(q_rows[:, 0], k, v), atol=1e-5)


def test_rows_of_a_cache_differ():
    q, k, v, lengths = make(KEY, "rows", DECODE)
    assert lengths.tolist() == [10] * 3
    for array in (k, v):
        assert array.shape == (3, 11, 2, 8)
        assert not np.array_equal(array[0], array[1])
    assert not np.array_equal(k, v)
    np.testing.assert_allclose(expected("rows", (q, k, v, lengths)), dense(q[:, 0], k, v), atol=1e-5)


def test_states():
    parts = make(KEY, "states", MERGE)
    assert [(o.shape, lse.shape, o.dtype) for o, lse in parts] == [((3, 4, 8), (3, 4), jnp.float32)] * 2
    weights = jax.nn.softmax(jnp.stack([lse for _, lse in parts]), axis=0)
    merged = sum(weight[..., None] * o for weight, (o, _) in zip(weights, parts))
    np.testing.assert_allclose(expected("states", parts), merged, atol=1e-5)


@pytest.mark.parametrize(("shape", "layout"), [(WHOLE, "split"), (WHOLE, "rows"), (PREFIX, "shared"), (DECODE, "rows")])
def test_types_and_sets(shape, layout):
    arrays = make(KEY, layout, shape._replace(dtype="bfloat16"))
    assert {array.dtype for array in arrays if array.ndim > 1} == {jnp.dtype("bfloat16")}
    other = make(random_key(4), layout, shape._replace(dtype="bfloat16"))
    for one, two in zip(arrays, other):
        if one.ndim > 1:
            assert not np.array_equal(one, two)
            assert np.count_nonzero(np.asarray(one, np.float32)) == one.size


def test_sets_fill_more_than_the_caches():
    assert num_sets(1 << 20, rotated=10 << 20) == 10
    assert num_sets((1 << 20) + 1, rotated=10 << 20) == 10
    assert num_sets(1 << 40) == 1
    assert num_sets(1) == MOST_SETS
