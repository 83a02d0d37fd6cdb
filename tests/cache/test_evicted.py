"""The evicted layout: attention to what each head keeps and to what follows, against a masked contiguous cache."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.cache import Cache, ContiguousCache
from jaxdec.cache.evicted import EvictedCache
from tests.attention.sparse.prompts import textbook
from tests.cache.test_contiguous import HEADS, KV_HEADS, LAYERS, WIDTH, append, empty, entries
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

BATCH, PROMPT, SLOTS = 3, 40, 128
attend = jax.jit(EvictedCache.attention_state, static_argnums=1)


def prompt_cache(seed, lengths):
    """Committed prompts, NaN behind them."""
    rng = np.random.default_rng(seed)
    new = entries(rng, BATCH, PROMPT)
    for side in new:
        side[np.arange(PROMPT) >= np.asarray(lengths)[:, None]] = np.nan
    return append(empty(BATCH, SLOTS), new).commit(None, jnp.asarray(lengths, jnp.int32)), new, rng


def some_kept(rng, lengths, share=0.4):
    """Masks that keep other tokens and another number of them in every head and layer; nothing at all in some."""
    masks = rng.random((LAYERS, BATCH, KV_HEADS, SLOTS)) < share * rng.integers(0, 3, (LAYERS, BATCH, KV_HEADS, 1))
    return [jnp.asarray(mask & (np.arange(SLOTS) < np.asarray(lengths)[:, None, None])) for mask in masks]


def with_nan(cache):
    nan = tuple(jnp.full_like(array, jnp.nan) for array in cache.recent.keys)
    return cache.replace(recent=cache.recent.replace(keys=nan, values=nan))


@settings(deadline=None, max_examples=5)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, PROMPT), min_size=BATCH, max_size=BATCH),
    st.lists(st.sampled_from(["in order", "path", "reject", "forget"]), min_size=1, max_size=4),
)
def test_attends_to_what_is_kept_and_what_follows(seed, lengths, steps):
    prompt, old, rng = prompt_cache(seed, lengths)
    keep = some_kept(rng, lengths)
    cache = with_nan(EvictedCache.of_prompt(prompt, keep, capacity=64, room=KV_HEADS * PROMPT))  # one shape
    assert cache.length.tolist() == lengths
    since = [[[] for _ in range(2 * LAYERS)] for _ in range(BATCH)]
    for kind in steps:
        size = int(rng.choice([1, 4]))
        new = entries(rng, BATCH, size)
        cache = append(cache, new)
        visible = None
        if kind == "path":
            visible = np.tril(rng.random((BATCH, size, size)) < 0.5) | np.eye(size, dtype=bool)
        mask = cache.mask(size, None if visible is None else jnp.asarray(visible))
        q = rng.normal(size=(BATCH, size, HEADS, WIDTH)).astype(np.float32)
        for layer in range(LAYERS):
            out, lse = attend(cache, layer, jnp.asarray(q), mask)
            for row in range(BATCH):
                recent = len(since[row][0])
                sides = [
                    np.concatenate(
                        [old[i][row], *(np.asarray(since[row][i]).reshape(-1, KV_HEADS, WIDTH),), new[i][row]]
                    )
                    for i in (2 * layer, 2 * layer + 1)
                ]
                seen = np.tril(np.ones((size, size), bool)) if visible is None else visible[row]
                allowed = np.ones((HEADS, size, PROMPT + recent + size), bool)
                kept = np.repeat(np.asarray(keep[layer])[row, :, :PROMPT], HEADS // KV_HEADS, axis=0)
                allowed[:, :, :PROMPT] = kept[:, None]
                allowed[:, :, PROMPT + recent :] = seen
                expected, expected_lse = textbook(q[row][None], sides[0][None], sides[1][None], allowed[None])
                np.testing.assert_allclose(out[row], expected[0], atol=1e-5)
                np.testing.assert_allclose(lse[row], expected_lse[0], atol=1e-5)
        count = rng.integers(0, size + 1, BATCH)
        path = np.stack([np.sort(rng.permutation(size)) for _ in range(BATCH)])
        if kind == "path":
            for row in range(BATCH):
                path[row, : count[row]] = np.sort(rng.permutation(size)[: count[row]])
        if kind == "reject":
            count[:] = 0
        if kind == "forget":
            count = -np.asarray([rng.integers(0, len(row[0]) + 1) for row in since])
        cache = cache.commit(jnp.asarray(path) if kind == "path" else None, jnp.asarray(count, jnp.int32))
        for row in range(BATCH):
            for i in range(2 * LAYERS):
                if count[row] < 0:
                    del since[row][i][count[row] :]
                else:
                    since[row][i] += list(new[i][row][path[row, : count[row]]])
        assert cache.length.tolist() == [length + len(row[0]) for length, row in zip(lengths, since)]


@pytest.mark.slow
def test_all_kept_is_the_contiguous_cache():
    lengths = [40, 7, 0]
    prompt, _, rng = prompt_cache(0, lengths)
    everything = jnp.broadcast_to(jnp.arange(SLOTS) < jnp.asarray(lengths)[:, None, None], (BATCH, KV_HEADS, SLOTS))
    cache = EvictedCache.of_prompt(prompt, [everything] * LAYERS, capacity=16)
    assert isinstance(cache, Cache)
    new = entries(rng, BATCH, 3)
    q = jnp.asarray(rng.normal(size=(BATCH, 3, HEADS, WIDTH)), jnp.float32)
    evicted, plain = append(cache, new), append(prompt, new)
    for layer in range(LAYERS):
        got, wanted = (side.attend(layer, q, side.mask(3, None)) for side in (evicted, plain))
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_long_heads_are_read_in_blocks_of_their_own():
    """Heads of which each keeps more than a block, beginning anywhere in the array of all heads."""
    rng = np.random.default_rng(0)
    lengths, size = [300, 211, 140], 300
    new = entries(rng, BATCH, size)
    prompt = append(empty(BATCH, size), new).commit(None, jnp.asarray(lengths, jnp.int32))
    slots = prompt.capacity
    masks = rng.random((LAYERS, BATCH, KV_HEADS, slots)) < 0.9
    keep = [jnp.asarray(mask & (np.arange(slots) < np.asarray(lengths)[:, None, None])) for mask in masks]
    cache = EvictedCache.of_prompt(prompt, keep, capacity=1)
    q = rng.normal(size=(BATCH, 2, HEADS, WIDTH)).astype(np.float32)
    for layer in range(LAYERS):
        out, lse = cache.kept[layer].attention_state(jnp.asarray(q))
        kept = np.repeat(np.asarray(keep[layer])[:, :, None, :size], HEADS // KV_HEADS, axis=1)
        mask = np.broadcast_to(kept, (BATCH, HEADS, 2, size))
        expected, expected_lse = textbook(q, new[2 * layer], new[2 * layer + 1], mask)
        np.testing.assert_allclose(out, expected, atol=1e-5)
        np.testing.assert_allclose(lse, expected_lse, atol=1e-5)
        np.testing.assert_array_equal(cache.kept[layer].mask(slots), keep[layer])


@pytest.mark.slow
def test_heads_share_a_budget_and_pay_for_no_more():
    """What Ada-SnapKV keeps is ``capacity`` tokens per head on average, and so many slots, however uneven."""
    lengths = [40, 40, 40]
    prompt, old, rng = prompt_cache(3, lengths)
    rule = AdaSnapKV(capacity=10, window=8, kernel=3, sinks=1, local=2, min_ratio=0.3)
    q = jnp.asarray(rng.normal(size=(BATCH, PROMPT, HEADS, WIDTH)) * [[0.05], [0.05], [5], [5]], jnp.float32)
    rows = jnp.asarray(lengths, jnp.int32)
    keep = [
        jnp.pad(rule.keep(q, jnp.asarray(old[2 * i]), rows), ((0, 0), (0, 0), (0, SLOTS - PROMPT)))
        for i in range(LAYERS)
    ]
    assert len({int(n) for mask in keep for n in mask.sum(-1).ravel()}) > 1, "heads keep different numbers"
    cache = EvictedCache.of_prompt(prompt, keep, capacity=1)
    tokens = LAYERS * BATCH * KV_HEADS * 10
    assert cache.nbytes - cache.recent.nbytes == tokens * (2 * WIDTH * 4 + 4)
    for kept, mask in zip(cache.kept, keep):
        np.testing.assert_array_equal(kept.mask(SLOTS), mask)
    made = jax.jit(lambda prompt, keep: EvictedCache.of_prompt(prompt, keep, capacity=1, room=20))(prompt, keep)
    for got, wanted in zip(jax.tree.leaves(made.kept), jax.tree.leaves(cache.kept)):
        np.testing.assert_array_equal(got, wanted)


def test_forked_rows_are_copies():
    lengths = [40, 7, 0]
    prompt, _, rng = prompt_cache(1, lengths)
    cache = EvictedCache.of_prompt(prompt, some_kept(rng, lengths), capacity=16)
    cache = append(cache, entries(rng, BATCH, 5)).commit(None, jnp.asarray([5, 2, 0], jnp.int32))
    rows = jnp.asarray([1, 1, 0, 2])
    forked = cache.fork(rows)
    assert forked.length.tolist() == [9, 9, 45, 0]
    new = [side[np.asarray(rows)] for side in entries(rng, BATCH, 2)]
    q = jnp.asarray(rng.normal(size=(BATCH, 2, HEADS, WIDTH)), jnp.float32)[rows]
    after = append(forked, new)
    for row, origin in enumerate(rows.tolist()):
        one = append(cache.fork(jnp.asarray([origin])), [side[row : row + 1] for side in new])
        got = attend(after, 0, q, after.mask(2, None))[0][row]
        np.testing.assert_allclose(got, attend(one, 0, q[row : row + 1], one.mask(2, None))[0][0], atol=1e-6)


def test_bad_masks_and_rooms_are_refused():
    lengths = [40, 7, 0]
    prompt, _, rng = prompt_cache(2, lengths)
    keep = some_kept(rng, lengths)
    most = max(int(mask.sum((1, 2)).max()) for mask in keep)

    def refused(message, keep=keep, **options):
        with pytest.raises(ValueError, match=re.escape(message)):
            EvictedCache.of_prompt(prompt, keep, **{"capacity": 16, **options})

    refused("keep must have one mask for each of 2 layers; got 1", keep[:1])
    refused("keep of layer 1 must have shape [3, 2, 128]; got [3, 2, 64]", [keep[0], keep[1][..., :64]])
    behind = keep[1].at[1, 1, 7].set(True)
    refused("keep of layer 1 must lie within the prompts; row 1 of 7 tokens keeps slot 7", [keep[0], behind])
    refused(f"room must be at least the {most} tokens that a row keeps in a layer; got {most - 1}", room=most - 1)
    refused("capacity must be at least 1, got 0", capacity=0)
    with pytest.raises(ValueError, match="room must be given where keep is not known yet"):
        jax.jit(lambda keep: EvictedCache.of_prompt(prompt, keep, capacity=1))(keep)


def test_only_what_follows_the_prompt_takes_room():
    prompt, _, _ = prompt_cache(4, [40, 7, 0])
    nothing = [jnp.zeros((BATCH, KV_HEADS, SLOTS), bool)] * LAYERS
    cache = EvictedCache.of_prompt(prompt, nothing, capacity=1)
    assert (
        cache.capacity
        == ContiguousCache.create(
            num_layers=1, batch_size=1, capacity=1, num_kv_heads=1, head_dim=1, dtype=jnp.float32
        ).capacity
    )
    out, lse = cache.kept[0].attention_state(jnp.ones((BATCH, 1, HEADS, WIDTH)))
    assert (np.asarray(out) == 0).all()
    assert (np.asarray(lse) == -np.inf).all()
