"""Queries of some positions, noted while prompts are fed in chunks."""

import jax.numpy as jnp
import numpy as np

from jaxdec.cache import ContiguousCache
from jaxdec.cache.observed import ObservedCache

SIZES = {"num_layers": 2, "batch_size": 2, "capacity": 16, "num_kv_heads": 2, "head_dim": 8}
POSITIONS = jnp.asarray([[3, 11, -1, 0], [7, -1, 8, 4]])


def some(seed, heads):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, 12, heads, 8)), jnp.float32)


def feed(cache, layers, chunks, count=None):
    for first, stop in chunks:
        for layer, (queries, keys, values) in enumerate(layers):
            cache = cache.append(layer, keys[:, first:stop], values[:, first:stop])
            cache = cache.observe(layer, queries[:, first:stop])
        cache = cache.commit(None, jnp.asarray(count or [stop - first] * 2))
    return cache


def test_the_queries_of_the_positions_are_noted_whatever_the_chunks():
    layers = [(some(seed, 4), some(seed + 1, 2), some(seed + 2, 2)) for seed in (0, 10)]
    empty = ContiguousCache.create(**SIZES, dtype=jnp.float32)
    cache = feed(ObservedCache.of(empty, POSITIONS, 2), layers, [(0, 5), (5, 8), (8, 12)])
    for layer, (queries, keys, _) in enumerate(layers):
        for row, place in np.ndindex(2, 4):
            position = int(POSITIONS[row, place])
            expected = queries[row, position] if position >= 0 else np.zeros((4, 8))
            np.testing.assert_array_equal(cache.queries[layer][row, place], expected)
        np.testing.assert_array_equal(cache.inner.keys[layer][:, :, :12], keys.swapaxes(1, 2))
    plain = feed(empty, layers, [(0, 12)])
    new = some(5, 4)[:, :3]
    out = cache.attend(1, new, cache.mask(3, None))
    np.testing.assert_allclose(out, plain.attend(1, new, plain.mask(3, None)), atol=2e-6)
    forked = cache.fork(jnp.asarray([1, 1, 0]))
    np.testing.assert_array_equal(forked.queries[1][2], cache.queries[1][0])
    assert forked.positions[0].tolist() == [7, -1, 8, 4]
    assert forked.length.tolist() == [12] * 3
    assert (cache.capacity, cache.nbytes) == (empty.capacity, empty.nbytes)


def test_a_query_that_is_fed_again_is_noted_anew():
    first, second = ([(some(seed, 4), some(1, 2), some(2, 2))] * 2 for seed in (0, 3))
    cache = ObservedCache.of(ContiguousCache.create(**SIZES, dtype=jnp.float32), POSITIONS, 2)
    cache = feed(cache, first, [(0, 8)], count=[2, 8])  # of the first row two are kept, and position 3 comes again
    cache = cache.observe(0, second[0][0][:, :4])
    np.testing.assert_array_equal(cache.queries[0][0, 0], second[0][0][0, 1])
    np.testing.assert_array_equal(cache.queries[0][0, 3], first[0][0][0, 0])
    np.testing.assert_array_equal(cache.queries[0][1, 0], first[0][0][1, 7])
    np.testing.assert_array_equal(cache.queries[0][1, 2], second[0][0][1, 0])
