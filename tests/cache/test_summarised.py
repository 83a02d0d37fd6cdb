"""The layout in which Quest chooses pages, against dense attention under Quest's mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.attention.sparse.quest import PageSummary, Quest
from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.cache import ContiguousCache
from jaxdec.cache.summarised import SummarisedCache

SIZES = {"num_layers": 1, "batch_size": 2, "capacity": 128, "num_kv_heads": 2, "head_dim": 8}
RULE = Quest(budget=24, page_size=8)


def some(rng, tokens, heads=2):
    return jnp.asarray(rng.standard_normal((2, tokens, heads, 8)), jnp.float32)


def filled(rng, lengths=(100, 41)):
    cache = ContiguousCache.create(**SIZES, dtype=jnp.float32)
    cache = jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.ndim == 4 else leaf, cache)
    return cache.append(0, some(rng, 100), some(rng, 100)).commit(None, jnp.asarray(lengths))


def test_steps_read_what_the_mask_says_and_appends_keep_the_summaries():
    rng = np.random.default_rng(0)
    cache = SummarisedCache.of(filled(rng), RULE, max_new=3)
    visible = jnp.asarray(np.tril(np.ones((2, 3, 3), bool)))
    attend = jax.jit(lambda cache, q: cache.observe(0, q).attend(0, q, cache.mask(3, visible)))
    for path, count in [(None, [3, 1]), ([[0, 2, 0]] * 2, [2, 2]), (None, [-1, -2]), (None, [3, 3]), (None, [0, 3])]:
        queries = some(rng, 3, heads=4)
        cache = cache.append(0, some(rng, 3), some(rng, 3))
        fresh = PageSummary.of(cache.inner.keys[0], 8)
        for row, pages in enumerate((cache.length // 8).tolist()):
            for side in ("low", "high"):
                mine, theirs = (np.asarray(getattr(one, side))[row, :, :pages] for one in (cache.summaries[0], fresh))
                np.testing.assert_array_equal(mine, theirs)
        keys, values = (side[0].swapaxes(1, 2) for side in (cache.inner.keys, cache.inner.values))
        mask = RULE.mask(queries, fresh, cache.length, visible)
        np.testing.assert_allclose(attend(cache, queries), masked_attention(queries, keys, values, mask), atol=2e-6)
        cache = cache.commit(None if path is None else jnp.asarray(path), jnp.asarray(count))
    assert cache.length.tolist() == [107, 48]
    assert cache.nbytes == cache.inner.nbytes * 9 // 8
    forked = cache.fork(jnp.asarray([1, 0]))
    np.testing.assert_array_equal(forked.summaries[0].low[1], cache.summaries[0].low[0])
    assert forked.capacity == 128


def test_no_room_for_new_tokens_is_refused():
    with pytest.raises(ValueError, match="max_new must be at least 1, got 0"):
        SummarisedCache.of(ContiguousCache.create(**SIZES, dtype=jnp.float32), RULE, 0)
