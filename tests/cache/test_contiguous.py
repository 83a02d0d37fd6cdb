"""The contiguous layout: append, attend, commit, fork, against NumPy on the committed entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention import SlotMask
from jaxdec.attention.sparse.slots import UNROLLED_ROWS, write_slots
from jaxdec.cache import Cache, ContiguousCache

LAYERS, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 4


def empty(batch: int, capacity: int = 32) -> ContiguousCache:
    """A cache whose slots all hold NaN, so that reading one that was never written shows."""
    cache = ContiguousCache.create(
        num_layers=LAYERS, batch_size=batch, capacity=capacity, num_kv_heads=KV_HEADS, head_dim=WIDTH, dtype=jnp.float32
    )
    nan = tuple(jnp.full_like(array, jnp.nan) for array in cache.keys)
    return cache.replace(keys=nan, values=nan)


def entries(rng, batch: int, count: int):
    return tuple(rng.normal(size=(batch, count, KV_HEADS, WIDTH)).astype(np.float32) for _ in range(2 * LAYERS))


def append(cache, new):
    for layer in range(LAYERS):
        cache = cache.append(layer, jnp.asarray(new[2 * layer]), jnp.asarray(new[2 * layer + 1]))
    return cache


def committed(cache, row: int):
    length = int(cache.length[row])
    return [
        np.asarray(array[row, :, :length]).swapaxes(0, 1) for pair in zip(cache.keys, cache.values) for array in pair
    ]


@settings(deadline=None, max_examples=6)
@given(
    st.integers(0, 1000),
    st.sampled_from([1, 3, UNROLLED_ROWS + 1]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(),
)
def test_holds_what_was_committed(seed, batch, chunks, by_path):
    rng = np.random.default_rng(seed)
    cache = empty(batch)
    expected = [[[] for _ in range(2 * LAYERS)] for _ in range(batch)]
    for size in chunks:
        new = entries(rng, batch, size)
        cache = append(cache, new)
        count = rng.integers(0, size + 1, batch)
        # Strictly increasing indices, and rubbish behind the ones that count.
        path = np.stack([np.sort(rng.permutation(size)) for _ in range(batch)])
        if by_path:
            chosen = [np.sort(rng.permutation(size)[:n]) for n in count]
            path = np.stack([np.concatenate([c, rng.integers(0, size, size - len(c))]) for c in chosen])
        cache = cache.commit(jnp.asarray(path, jnp.int32) if by_path else None, jnp.asarray(count, jnp.int32))
        for row in range(batch):
            for which in range(2 * LAYERS):
                expected[row][which] += list(new[which][row][path[row, : count[row]]])
    for row in range(batch):
        for kept, wanted in zip(committed(cache, row), expected[row]):
            np.testing.assert_array_equal(kept, np.asarray(wanted).reshape(-1, KV_HEADS, WIDTH))


def test_forked_rows_are_copies():
    cache = append(empty(3), entries(np.random.default_rng(0), 3, 5)).commit(None, jnp.asarray([5, 2, 0], jnp.int32))
    forked = cache.fork(jnp.asarray([1, 1, 0, 2]))
    assert forked.length.tolist() == [2, 2, 5, 0]
    for row, origin in enumerate([1, 1, 0, 2]):
        for kept, wanted in zip(committed(forked, row), committed(cache, origin)):
            np.testing.assert_array_equal(kept, wanted)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 1000), st.lists(st.integers(0, 20), min_size=3, max_size=3), st.integers(1, 5), st.booleans())
def test_attends_to_committed_and_visible_entries_only(seed, lengths, num_new, tree):
    rng = np.random.default_rng(seed)
    old, new = entries(rng, 3, 20), entries(rng, 3, num_new)
    cache = append(empty(3), old).commit(None, jnp.asarray(lengths, jnp.int32))
    visible = None
    if tree:
        visible = np.tril(rng.random((3, num_new, num_new)) < 0.5) | np.eye(num_new, dtype=bool)
    cache = append(cache, new)
    mask = cache.mask(num_new, None if visible is None else jnp.asarray(visible))
    assert isinstance(mask, SlotMask)
    queries = rng.normal(size=(3, num_new, HEADS, WIDTH)).astype(np.float32)
    for layer in range(LAYERS):
        out = np.asarray(cache.attend(layer, jnp.asarray(queries), mask))
        for row, length in enumerate(lengths):
            for t in range(num_new):
                seen = np.tril(np.ones((num_new, num_new), bool))[t] if visible is None else visible[row, t]
                keys, values = (
                    np.concatenate([old[2 * layer + i][row, :length], new[2 * layer + i][row][seen]]) for i in (0, 1)
                )
                for head in range(HEADS):
                    group = head // (HEADS // KV_HEADS)
                    weights = softmax(keys[:, group] @ queries[row, t, head] / WIDTH**0.5)
                    np.testing.assert_allclose(out[row, t, head], weights @ values[:, group], atol=2e-6)


def test_nbytes_and_capacity():
    cache = empty(2, capacity=130)
    assert isinstance(cache, Cache)
    assert cache.capacity == 256, "whole blocks of attention"
    assert cache.nbytes == 2 * LAYERS * 2 * KV_HEADS * 256 * WIDTH * 4


@pytest.mark.parametrize("name", ["num_layers", "batch_size", "capacity"])
def test_sizes_below_one_are_refused(name):
    sizes = {"num_layers": 1, "batch_size": 1, "capacity": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ContiguousCache.create(**sizes, num_kv_heads=1, head_dim=2, dtype=jnp.float32)


def test_few_and_many_rows_are_written_alike():
    """Up to a number of rows the writes are unrolled, above it they are a loop."""
    rng = np.random.default_rng(1)
    buffer = jnp.asarray(rng.normal(size=(UNROLLED_ROWS + 4, 1, 16, 2)), jnp.float32)
    new = jnp.asarray(rng.normal(size=(buffer.shape[0], 1, 3, 2)), jnp.float32)
    start = jnp.asarray(rng.integers(0, 13, buffer.shape[0]), jnp.int32)
    looped = write_slots(buffer, new, start)
    unrolled = jnp.concatenate([write_slots(*(x[i : i + 4] for x in (buffer, new, start))) for i in (0, 4, 8)])
    np.testing.assert_array_equal(looped, unrolled)
    scattered = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=1))
    np.testing.assert_array_equal(looped, scattered(buffer, new, start))
