"""Block-wise softmax attention against the textbook form in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention import SlotMask, dense_attention


def textbook(queries, keys, values, allowed):
    """``[B, T, H, E]`` from keys ``[B, G, S, E]`` and ``allowed [B, T, S]``, in float64."""
    queries, keys, values = (np.asarray(x, np.float64) for x in (queries, keys, values))
    group = queries.shape[2] // keys.shape[1]
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = np.einsum("bthe,bhse->bhts", queries, np.nan_to_num(keys)) / queries.shape[-1] ** 0.5
    scores = np.where(np.asarray(allowed)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhts,bhse->bthe", weights / weights.sum(-1, keepdims=True), np.nan_to_num(values))


def case(seed, batch, num_new, kv_heads, group, slots, lengths, visible=None, dtype=jnp.float32):
    """Random tensors, NaN in unused slots, and the mask of a contiguous cache."""
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(batch, num_new, kv_heads * group, 8))
    keys, values = rng.normal(size=(2, batch, kv_heads, slots, 8)) * 2
    end = np.asarray(lengths) + num_new
    unused = np.arange(slots) >= end[:, None]
    keys, values = (np.where(unused[:, None, :, None], np.nan, x) for x in (keys, values))
    slot = np.arange(slots)[None, None]
    offset = slot - np.asarray(lengths)[:, None, None]
    if visible is None:
        allowed = offset <= np.arange(num_new)[None, :, None]
    else:
        new = np.take_along_axis(visible, np.broadcast_to(np.clip(offset, 0, num_new - 1), (batch, num_new, slots)), 2)
        allowed = (offset < 0) | ((offset < num_new) & new)
    mask = SlotMask(jnp.asarray(allowed), jnp.asarray(end, jnp.int32), causal=visible is None)
    return *(jnp.asarray(x, dtype) for x in (queries, keys, values)), mask


@settings(deadline=None, max_examples=10)  # every shape compiles
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 5, 9]), st.integers(1, 2), st.integers(1, 3)),
    key_block=st.sampled_from([4, 16, 40, None]),
    causal=st.booleans(),
)
def test_equals_the_textbook(seed, sizes, key_block, causal):
    batch, num_new, kv_heads, group = sizes
    rng = np.random.default_rng(seed)
    slots = 40
    lengths = rng.integers(0, slots - num_new + 1, batch)
    visible = None if causal else np.tril(rng.random((batch, num_new, num_new)) < 0.5) | np.eye(num_new, dtype=bool)
    queries, keys, values, mask = case(seed, batch, num_new, kv_heads, group, slots, lengths, visible)
    out = dense_attention(queries, keys, values, mask, key_block=key_block)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, textbook(queries, keys, values, mask.allowed), atol=1e-5, rtol=1e-5)


def test_long_prefills_are_cut_into_tiles_of_queries():
    queries, keys, values, mask = case(3, 2, 300, 1, 2, 512, [0, 200])
    out = dense_attention(queries, keys, values, mask)
    np.testing.assert_allclose(out, textbook(queries, keys, values, mask.allowed), atol=1e-5, rtol=1e-5)


def test_float64_and_bfloat16():
    with jax.enable_x64(True):
        arguments = case(1, 2, 3, 2, 2, 64, [5, 50], dtype=jnp.float64)
        # Jitted: the index of the loop over blocks is then of the type of the lengths, and mixes with no other.
        out = jax.jit(dense_attention, static_argnames="key_block")(*arguments, key_block=16)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, textbook(*arguments[:3], arguments[3].allowed), atol=1e-13)
    queries, keys, values, mask = case(1, 2, 3, 2, 2, 64, [5, 50], dtype=jnp.bfloat16)
    out = dense_attention(queries, keys, values, mask, key_block=16)
    assert out.dtype == jnp.float32, "accumulated wider than stored"
    np.testing.assert_allclose(out, textbook(queries, keys, values, mask.allowed), atol=0.05)


@pytest.mark.parametrize("key_block", [16, None])
def test_a_row_does_not_depend_on_the_rows_beside_it(key_block):
    queries, keys, values, mask = case(7, 3, 4, 2, 2, 96, [3, 80, 40])
    together = dense_attention(queries, keys, values, mask, key_block=key_block)
    for row in range(3):
        one = slice(row, row + 1)
        alone = SlotMask(mask.allowed[one], mask.end[one], mask.causal)
        out = dense_attention(queries[one], keys[one], values[one], alone, key_block=key_block)
        np.testing.assert_allclose(out, together[one], atol=1e-6)  # products of another batch size round differently


def test_scores_too_large_for_exp_are_no_trouble():
    queries, keys, values, mask = case(0, 1, 2, 1, 1, 16, [9])
    out = dense_attention(queries * 1e4, keys, values, mask, key_block=4)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, textbook(queries * 1e4, keys, values, mask.allowed), atol=1e-3)
