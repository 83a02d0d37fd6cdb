"""Codebooks that learn: one update against NumPy, its fixed point, dead keys, and k-means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.models.vector_quantization import Codebooks, ema_update, kmeans, random_codebooks
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

RNG = np.random.default_rng(1)
HEADS = jnp.asarray(RNG.normal(size=(2, 12, 3)), jnp.float32)
OPTIONS = {"decay": 0.9, "epsilon": 1e-2, "dead_below": 0.0}


def started(num_keys=5) -> Codebooks:
    """Codebooks with a history."""
    keys = RNG.normal(size=(2, num_keys, 3))
    counts = RNG.uniform(1, 2, size=(2, num_keys))
    return Codebooks(*(jnp.asarray(part, jnp.float32) for part in (keys, counts, keys * counts[..., None])))


@functools.cache
def compiled(dead_below):
    return jax.jit(functools.partial(ema_update, **{**OPTIONS, "dead_below": dead_below}))


def update(codebooks, heads, key=0, dead_below=0.0):
    return compiled(dead_below)(codebooks, heads, jax.random.key(key))


def smoothed(counts):
    return (counts + 1e-2) / (counts.sum() + 1e-2 * len(counts)) * counts.sum()


def nearest(heads, keys):
    distances = np.square(np.asarray(heads)[:, :, None] - np.asarray(keys)[:, None]).sum(-1)
    return distances.argmin(-1), distances.min(-1)


def test_one_update_by_hand():
    before = started()
    after, error = update(before, HEADS)
    at, distances = nearest(HEADS, before.keys)
    assert float(error) == pytest.approx(distances.mean(), rel=1e-5)
    for codebook in range(2):
        counts, sums = np.array(before.counts[codebook]), np.array(before.sums[codebook])
        for place in range(5):
            mine = np.asarray(HEADS[codebook])[at[codebook] == place]
            counts[place] = 0.9 * counts[place] + 0.1 * len(mine)
            sums[place] = 0.9 * sums[place] + 0.1 * mine.sum(0)
        np.testing.assert_allclose(after.counts[codebook], counts, rtol=1e-5)
        np.testing.assert_allclose(after.keys[codebook], sums / smoothed(counts)[:, None], rtol=1e-4, atol=1e-6)


def test_the_same_batch_for_ever_leads_to_means():
    codebooks, key = started(3), jax.random.key(0)
    options = {**OPTIONS, "decay": 0.5, "epsilon": 1e-6}
    run = jax.jit(lambda codebooks: jax.lax.fori_loop(
        0, 60, lambda _, codebooks: ema_update(codebooks, HEADS, key, **options)[0], codebooks))  # fmt: skip
    keys = run(codebooks).keys
    at, _ = nearest(HEADS, keys)
    for heads, mine, found in zip(np.asarray(HEADS), np.asarray(keys), at):
        for place in set(found.tolist()):
            np.testing.assert_allclose(mine[place], heads[found == place].mean(0), atol=1e-5)


def test_a_key_without_a_history_counts_as_heads_at_its_own_place():
    """In the published code it is divided by the few heads of the first batch, and lands far away."""
    before = random_codebooks(jax.random.key(2), 2, 5, 3)
    at, _ = nearest(HEADS, before.keys)
    after, _ = update(before, HEADS)
    for codebook in range(2):
        counts = 0.9 + 0.1 * np.bincount(at[codebook], minlength=5)
        for place in range(5):
            mine = np.asarray(HEADS[codebook])[at[codebook] == place]
            expected = (0.9 * np.asarray(before.keys[codebook, place]) + 0.1 * mine.sum(0)) / smoothed(counts)[place]
            np.testing.assert_allclose(after.keys[codebook, place], expected, rtol=1e-4, atol=1e-6)


def test_dead_keys_move_to_heads_of_the_batch():
    keys, counts, sums = map(np.array, started())
    keys[:, 0], counts[:, 0] = 50.0, 0.05
    before = Codebooks(*map(jnp.asarray, (keys, counts, sums)))
    after, _ = update(before, HEADS, dead_below=0.1)  # T = 0.1 * 12 / 5
    same, other = update(before, HEADS, dead_below=0.1)[0], update(before, HEADS, key=1, dead_below=0.1)[0]
    np.testing.assert_array_equal(after.keys, same.keys)
    assert (np.asarray(after.keys[:, 0]) != np.asarray(other.keys[:, 0])).any()
    for codebook in range(2):
        assert (np.asarray(HEADS[codebook]) == np.asarray(after.keys[codebook, 0])).all(-1).any()
    np.testing.assert_allclose(after.counts[:, 0], 0.24, rtol=1e-6)
    np.testing.assert_allclose(after.sums[:, 0], 0.24 * after.keys[:, 0], rtol=1e-6)
    kept, _ = update(before, HEADS)
    np.testing.assert_array_equal(after.keys[:, 1:], kept.keys[:, 1:])


def test_kmeans_leaves_means_counts_and_sums_and_is_the_same_for_the_same_key():
    centres = np.array([[[0, 0], [10, 0], [0, 10.0]], [[5, 5], [-5, 5], [5, -5]]])
    heads = jnp.asarray(np.repeat(centres, 8, axis=1) + 0.01 * RNG.normal(size=(2, 24, 2)), jnp.float32)
    run = jax.jit(functools.partial(kmeans, num_keys=6, iterations=10))
    found, again = run(heads, jax.random.key(0)), run(heads, jax.random.key(0))
    for ours, theirs in zip(found, again):
        np.testing.assert_array_equal(ours, theirs)
    at, _ = nearest(heads, found.keys)
    for codebook in range(2):
        counts = np.bincount(at[codebook], minlength=6)
        np.testing.assert_array_equal(found.counts[codebook], counts)
        filled = counts > 0
        np.testing.assert_allclose(
            found.keys[codebook][filled], found.sums[codebook][filled] / counts[filled, None], rtol=1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_moving_averages_go_on_where_kmeans_ends():
    """In the published code the sums are still zero then, and keys jump."""
    heads = jnp.asarray(RNG.normal(size=(2, 40, 2)), jnp.float32)
    found = kmeans(heads, jax.random.key(0), 6, 30)
    moved, _ = ema_update(found, heads, jax.random.key(0), **{**OPTIONS, "epsilon": 1e-7})
    np.testing.assert_allclose(moved.keys, found.keys, atol=1e-3)


@pytest.mark.parametrize("name", ["num_keys", "iterations"])
def test_kmeans_refuses(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        kmeans(HEADS, jax.random.key(0), **{"num_keys": 2, name: 0})
