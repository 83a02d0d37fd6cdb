"""Attention to shared keys equals the reference, whatever the groups."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import merge, prefix_attention
from pallas_kernels.prefix_attention.shapes import ODD, SHAPES, PrefixShape
from tests.pallas_kernels.arrays import TOLERANCE, assert_states, expected_prefix, normal, prefix_inputs
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

SMALL = {**ODD, **{name: shape.scaled(rows=5, keys=70) for name, shape in SHAPES.items()}}
RAGGED = PrefixShape((3, 0, 5, 1), (17, 9, 0, 1300), 6, 2, 64)


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in SMALL), ("smollm2-135m", "bfloat16")])
@pytest.mark.parametrize("traced", [False, True], ids=["known offsets", "traced offsets"])
def test_equals_reference(name, dtype, traced):
    arrays, groups = prefix_inputs(SMALL[name], dtype)
    call = lambda **groups: prefix_attention(*arrays, **groups)  # noqa: E731
    got = jax.jit(call)(**groups) if traced else call(**groups)
    assert got[0].dtype == got[1].dtype == jnp.float32
    assert_states(got, expected_prefix(arrays, groups), TOLERANCE[dtype])


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_ragged_groups_known_or_traced(data):
    """Rows outside of all groups, empty groups, and prefixes longer than a block."""
    groups = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=groups + 2, max_size=groups + 2))
    keys = data.draw(st.lists(st.sampled_from([0, 1, 600]), min_size=groups, max_size=groups))
    shape = PrefixShape(tuple(sizes[1:-1]), tuple(keys), 6, 2, 8)
    (_, k, v), _ = prefix_inputs(shape)
    (q,) = normal(5, (max(sum(sizes), 1), 6, 8))
    where = {"kv_lengths": jnp.asarray(keys), "query_offsets": np.cumsum(sizes[:-1])}
    expected = expected_prefix((q, k, v), where)
    assert_states(prefix_attention(q, k, v, **where), expected, 1e-5)
    assert_states(jax.jit(lambda **where: prefix_attention(q, k, v, **where))(**where), expected, 1e-5)


def test_many_groups_run_in_a_loop():
    arrays, groups = prefix_inputs(PrefixShape((2,) * 40, tuple(range(40)), 4, 2, 8))
    assert_states(prefix_attention(*arrays, **groups), expected_prefix(arrays, groups), 1e-5)


def test_without_lengths_and_offsets_all_groups_are_equal_and_full():
    q, k, v = normal(0, (6, 4, 16), (2, 700, 2, 16), (2, 700, 2, 16))
    groups = {"kv_lengths": [700, 700], "query_offsets": [0, 3, 6]}
    assert_states(prefix_attention(q, k, v), expected_prefix((q, k, v), groups), 1e-5)
    assert_states(prefix_attention(q, k, v, scale=0.5), expected_prefix((q, k, v), groups, scale=0.5), 1e-5)


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 90), max_size=3))
def test_any_cut_into_levels_merges_to_the_whole(cuts):
    q, k, v = normal(1, (4, 6, 16), (1, 90, 2, 16), (1, 90, 2, 16))
    bounds = [0, *sorted(cuts), 90]
    levels = []
    for begin, end in itertools.pairwise(bounds):
        part = [jnp.pad(array[:, begin:end], ((0, 0), (0, 1), (0, 0), (0, 0))) for array in (k, v)]
        levels.append(prefix_attention(q, *part, kv_lengths=jnp.array([end - begin])))
    assert_states(merge(levels), prefix_attention(q, k, v), 1e-5)


def test_permuting_rows_of_a_group_permutes_the_result():
    arrays, groups = prefix_inputs(RAGGED)
    order = np.array([2, 0, 1, 7, 5, 3, 4, 6, 8])
    o, lse = prefix_attention(*arrays, **groups)
    assert_states(prefix_attention(arrays[0][order], *arrays[1:], **groups), (o[order], lse[order]), 1e-6)


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_extreme_scores_stay_finite(size):
    q, k = jnp.full((2, 1, 1), size), jnp.ones((1, 600, 1, 1))
    o, lse = prefix_attention(q, k, 3 * k, scale=1.0)
    np.testing.assert_allclose(o, 3, rtol=1e-5)
    np.testing.assert_allclose(lse, size + np.log(600), rtol=1e-6)


def test_adding_to_all_scores_adds_to_the_log_sum_exp():
    q, k, v = normal(2, (3, 2, 8), (1, 50, 1, 8), (1, 50, 1, 8))
    q, plus = q.at[..., 0].set(1.0), k.at[..., 0].add(7.0)
    o, lse = prefix_attention(q, k, v, scale=1.0)
    assert_states(prefix_attention(q, plus, v, scale=1.0), (o, lse + 7), 1e-5)


@pytest.mark.parametrize("traced", [False, True])
def test_gradient_equals_that_of_dense_attention(traced):
    arrays, groups = prefix_inputs(PrefixShape((2, 3), (30, 600), 4, 2, 8))
    weights = normal(3, (5, 4, 8), (5, 4))

    def loss(arrays, groups):
        return sum((result * weight).sum() for result, weight in zip(prefix_attention(*arrays, **groups), weights))

    def dense(arrays):
        q, k, v = arrays
        group = jnp.array([0, 0, 1, 1, 1])
        used = jnp.arange(k.shape[1]) < groups["kv_lengths"][group, None]
        k, v = (jnp.repeat(jnp.where(jnp.isnan(array), 0, array)[group], 2, axis=2) for array in (k, v))
        scores = jnp.where(used[:, None], jnp.einsum("rhd,rshd->rhs", q, k) * 8**-0.5, -jnp.inf)
        o = jnp.einsum("rhs,rshd->rhd", jax.nn.softmax(scores), v)
        return (o * weights[0]).sum() + (jax.nn.logsumexp(scores, axis=-1) * weights[1]).sum()

    known = {} if traced else groups
    call = jax.jit(jax.grad(lambda arrays, traced: loss(arrays, {**known, **traced})))
    got = call(arrays, groups if traced else {})
    for ours, theirs in zip(got, jax.jit(jax.grad(dense))(arrays)):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_float64():
    with jax.enable_x64(True):
        arrays, groups = prefix_inputs(PrefixShape((2, 3), (30, 600), 4, 2, 8), "float64")
        got = prefix_attention(*arrays, **groups)
        assert got[0].dtype == jnp.float64
        assert_states(got, expected_prefix(arrays, groups), TOLERANCE["float64"])


def test_blocks_behind_the_length_are_not_computed():
    """The number of blocks is in the program as a condition each; a program without them would not have it."""
    arrays, groups = prefix_inputs(PrefixShape((2,), (1200,), 2, 1, 8))
    text = str(jax.make_jaxpr(lambda lengths: prefix_attention(*arrays, kv_lengths=lengths))(groups["kv_lengths"]))
    assert "cond[" in text


Q, K = jnp.zeros((6, 4, 8)), jnp.zeros((2, 5, 2, 8))


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ((Q[0], K, K), {}, ValueError, r"q must have shape \[R, Hq, D\]; got \[4, 8\]"),
        ((Q, K[0], K[0]), {}, ValueError, r"k must have shape \[G, L, Hkv, D\]; got \[5, 2, 8\]"),
        ((Q, K, K[:, 1:]), {}, ValueError, r"v must have the shape of k, \[2, 5, 2, 8\]; got \[2, 4, 2, 8\]"),
        ((Q, K.astype("bfloat16"), K), {}, TypeError, "one type; got q float32, k bfloat16, v float32"),
        ((Q.astype(int), K, K), {}, TypeError, "q must have one of the types .*; got int32"),
        ((Q[..., 1:], K, K), {}, ValueError, "q must have the head width of k, 8; got 7"),
        ((Q[:, 1:], K, K), {}, ValueError, "q must have a multiple of k's 2 heads; got 3"),
        ((Q[1:], K, K), {}, ValueError, "as many rows for each of k's 2 groups, .*; got 5 rows"),
        ((Q, K[:0], K[:0]), {}, ValueError, "k must have at least one group"),
        ((Q, K[:, :0], K[:, :0]), {}, ValueError, "no empty slot, head or width"),
        ((Q, K, K), {"kv_lengths": jnp.array([1, 6])}, ValueError, r"kv_lengths must be in 0..5; got 6"),
        ((Q, K, K), {"kv_lengths": jnp.array([1, -1])}, ValueError, r"kv_lengths must be in 0..5; got -1"),
        ((Q, K, K), {"kv_lengths": jnp.array([1.0, jnp.nan])}, TypeError, "kv_lengths must be integers; got float32"),
        ((Q, K, K), {"kv_lengths": jnp.array([1])}, ValueError, r"kv_lengths must have shape \[2\]; got \[1\]"),
        ((Q, K, K), {"query_offsets": [0, 4, 3]}, ValueError, r"query_offsets must not fall; got \[0, 4, 3\]"),
        ((Q, K, K), {"query_offsets": [0, 4, 7]}, ValueError, r"query_offsets must be in 0..6; got 7"),
        ((Q, K, K), {"query_offsets": [0, 6]}, ValueError, r"query_offsets must have shape \[3\]; got \[2\]"),
        ((Q, K, K), {"scale": 0.0}, ValueError, "scale must be a positive number, .*; got 0.0"),
        ((Q, K, K), {"scale": float("nan")}, ValueError, "scale must be a positive number, .*; got nan"),
        ((Q, K, K), {"implementation": "cuda"}, ValueError, "implementation must be None or one of .*; got 'cuda'"),
    ],
)
def test_refuses(arrays, options, error, message):
    options = {name: np.array(value) if name == "query_offsets" else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        prefix_attention(*arrays, **options)
