"""The retrieval layout against loops over tokens in float64, against dense attention, and drafts that leave no trace."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.cache import Cache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.models.rope import Rotation
from tests.attention.sparse.prompts import textbook
from tests.cache.retrieval_reference import RowReference, turn
from tests.tiny_models import TINY, tiny_transformer

LAYERS, BATCH, HEADS, KV_HEADS, WIDTH = 2, 3, 4, 2, 8
NEW, CAPACITY = 6, 70
SHAPE = {"num_layers": LAYERS, "num_kv_heads": KV_HEADS, "num_heads": HEADS, "head_dim": WIDTH, "dtype": jnp.float32}
RULE = ActQKV(
    block_size=4, sinks=2, local=8, top_blocks=2, representatives=2, window=NEW, min_blocks=1, warmup=8, history=3,
    min_windows=2, temperature=0.05,
)  # fmt: skip
ROTATION = Rotation(dataclasses.replace(TINY, head_dim=WIDTH))


def empty(rule=RULE, batch=BATCH, capacity=CAPACITY, **changes):
    """A cache whose slots and representatives all hold NaN."""
    shape = {**SHAPE, "batch_size": batch, "capacity": capacity, "rule": rule, "rotation": ROTATION, **changes}
    cache = RetrievalCache.create(**shape)
    nan = functools.partial(jax.tree.map, lambda array: jnp.full_like(array, jnp.nan))
    held = cache.held.replace(keys=nan(cache.held.keys), values=nan(cache.held.values))
    return cache.replace(held=held, representatives=nan(cache.representatives))


def entries(rng, count, batch=BATCH, sharpness=1.5):
    """Queries, keys and values of every layer."""
    queries = rng.normal(size=(LAYERS, batch, count, HEADS, WIDTH)) * sharpness
    keys, values = rng.normal(size=(2, LAYERS, batch, count, KV_HEADS, WIDTH))
    return tuple(side.astype(np.float32) for side in (queries, keys, values))


@jax.jit
def feed(cache, queries, keys, values, visible):
    """One pass over all layers; what each reads, and the cache before it commits."""
    mask, parts = cache.mask(queries.shape[2], visible), []
    for layer in range(queries.shape[0]):
        cache = cache.append(layer, keys[layer], values[layer]).observe(layer, queries[layer])
        out, lse = cache.attention_state(layer, queries[layer], mask)
        parts.append((out, lse, cache.readable(layer, queries.shape[2], visible)))
    return cache, *(jnp.stack(part) for part in zip(*parts))


commit = jax.jit(RetrievalCache.commit)


def causal(size, batch=BATCH):
    return jnp.broadcast_to(jnp.tril(jnp.ones((size, size), bool)), (batch, size, size))


def filled(rng, lengths, rule=RULE, **changes):
    """A cache with so many tokens in each row, fed in windows."""
    cache = empty(rule, len(lengths), **changes)
    for start in range(0, max(lengths), NEW):
        cache, *_ = feed(cache, *entries(rng, NEW, len(lengths)), causal(NEW, len(lengths)))
        count = np.clip(np.asarray(lengths) - start, 0, NEW)
        cache = commit(cache, None, jnp.asarray(count, jnp.int32))
    return cache


@settings(deadline=None, max_examples=3)
@given(
    st.integers(0, 10**6), st.lists(st.sampled_from(["in order", "path", "reject", "forget"]), min_size=4, max_size=8)
)
def test_chooses_and_reads_as_the_loops_do(seed, steps):
    rng = np.random.default_rng(seed)
    cache, rows = empty(), [RowReference(RULE, LAYERS, HEADS // KV_HEADS) for _ in range(BATCH)]
    budgets = set()
    for kind in ["in order"] * 7 + steps:
        size = NEW if kind == "in order" else int(rng.choice([1, NEW]))
        size = size if max(map(len, rows)) + NEW <= CAPACITY else 1
        new = entries(rng, size)
        count = rng.integers(0, size + 1, BATCH)
        if kind == "in order":
            count = np.asarray([size, rng.integers(0, size + 1), size - 1])
        if kind in ("reject", "forget"):
            count[:] = 0
        visible = np.array(causal(size))
        path = np.broadcast_to(np.arange(size), (BATCH, size)).copy()
        expected = count if kind == "in order" else np.full(BATCH, size)
        if kind == "in order":
            cache = cache.expect(jnp.asarray(count))
        if kind == "path":
            visible = np.tril(rng.random((BATCH, size, size)) < 0.5) | np.eye(size, dtype=bool)
            for row in range(BATCH):
                path[row, : count[row]] = np.sort(rng.permutation(size)[: count[row]])
        cache, out, lse, readable = feed(cache, *map(jnp.asarray, new), jnp.asarray(visible))
        for row, reference in enumerate(rows):
            mine = [side[:, row].astype(np.float64) for side in new]
            chosen = reference.choose(mine[0], int(expected[row]))
            budgets.add(tuple(map(len, chosen)))
            length = len(reference)
            for layer in range(LAYERS):
                allowed = reference.allowed(chosen[layer], visible[row])
                np.testing.assert_array_equal(readable[layer, row, :, : length + size], allowed)
                assert not np.asarray(readable)[layer, row, :, length + size :].any()
                assert cache.windows[layer].chosen[row, : len(chosen[layer])].tolist() == chosen[layer]
                sides = [
                    np.concatenate([np.asarray(old[layer]).reshape(-1, KV_HEADS, WIDTH), side[layer]])[None]
                    for old, side in ((reference.keys, mine[1]), (reference.values, mine[2]))
                ]
                mask = np.broadcast_to(allowed, (1, HEADS, *allowed.shape))
                wanted, wanted_lse = textbook(mine[0][layer][None], *sides, mask)
                np.testing.assert_allclose(out[layer, row], wanted[0], atol=1e-5)
                np.testing.assert_allclose(lse[layer, row], wanted_lse[0], atol=1e-5)
                read = allowed[:, :length].any(axis=0).sum() + size
                assert cache.tokens_read[row, layer] == read
            np.testing.assert_allclose(cache.density[row], reference.pending, atol=1e-5)
            reference.commit(*mine, path[row, : count[row]])
        cache = commit(cache, jnp.asarray(path, jnp.int32), jnp.asarray(count, jnp.int32))
        if kind == "forget":
            forgotten = np.asarray([rng.integers(0, min(len(row), 9) + 1) for row in rows])
            cache = cache.commit(None, jnp.asarray(-forgotten, jnp.int32))
            for row, many in zip(rows, forgotten):
                row.forget(int(many))
        assert cache.length.tolist() == list(map(len, rows))
    assert len(budgets) > 2, "layers and rows are allotted different numbers"


def kept(cache):
    """What stays behind a pass, of representatives those in use."""
    used = cache.rule.num_blocks(cache.length)[:, None, None]
    blocks = [
        jnp.where(jnp.arange(side.shape[1])[:, None] < used, side, 0) for side in cache.representatives
    ]  # fmt: skip
    slots = jnp.arange(cache.held.capacity) < cache.length[:, None, None]
    received = [jnp.where(slots, side, 0) for side in cache.received]
    counters = (cache.densities, cache.num_windows, cache.tokens_read_in_all, cache.length, cache.expected)
    return jax.tree.leaves((blocks, received, cache.statistics, counters))


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


def test_drafts_that_are_not_kept_leave_no_trace():
    rng = np.random.default_rng(0)
    cache = filled(rng, [60, 41, 9])
    drafted, *_ = feed(cache, *(3 * side for side in entries(rng, NEW)), causal(NEW))
    refused = commit(drafted, None, jnp.zeros(BATCH, jnp.int32))
    assert_same(kept(refused), kept(cache))
    new = entries(rng, 1)
    one, two = (feed(side, *new, causal(1)) for side in (cache, refused))
    assert_same([*one[1:], one[0].blocks, one[0].tokens_read], [*two[1:], two[0].blocks, two[0].tokens_read])
    kept_one = commit(drafted, None, jnp.asarray([0, 1, 0], jnp.int32))
    changed = [not np.array_equal(a[1], b[1]) for a, b in zip(kept(kept_one), kept(cache))]
    assert sum(changed) >= 4 * LAYERS, "what is kept leaves one"
    assert_same([side[::2] for side in kept(kept_one)], [side[::2] for side in kept(cache)])


def test_padding_takes_no_part():
    """With ``expect``, queries behind a row's tokens may be anything; without it they move the probe and its density alone."""
    rng = np.random.default_rng(1)
    cache = filled(rng, [60, 41, 30])
    count = jnp.asarray([NEW, 2, 0], jnp.int32)
    queries, keys, values = entries(rng, NEW)
    wild = np.where(np.arange(NEW)[:, None, None] >= np.asarray(count)[:, None, None, None], 9 * queries[::-1], queries)
    passes = [feed(cache.expect(count), q, keys, values, causal(NEW)) for q in (queries, wild)]
    for layer in range(LAYERS):
        np.testing.assert_array_equal(*(after.windows[layer].chosen for after, *_ in passes))
        np.testing.assert_array_equal(*(out[layer, 1, :2] for _, out, *_ in passes))
    told, untold = (feed(side, wild, keys, values, causal(NEW)) for side in (cache.expect(count), cache))
    assert not np.array_equal(told[0].density, untold[0].density)
    densities = [leaf.shape for leaf in kept(cache)].index(cache.densities.shape)
    stays = [kept(commit(after[0], None, count)) for after in (told, untold)]
    assert_same(*([leaf for index, leaf in enumerate(side) if index != densities] for side in stays))


def test_tokens_written_over_forgotten_ones_begin_with_nothing():
    """They receive what they would without those, which stay in the statistics and in what older tokens received of them."""
    rng = np.random.default_rng(8)
    cache, every = filled(rng, [48, 30, 9]), jnp.full(BATCH, NEW, jnp.int32)
    forgot = commit(feed(cache, *entries(rng, NEW), causal(NEW))[0], None, every).commit(None, -every)
    new = entries(rng, NEW)
    once, again = (commit(feed(side, *new, causal(NEW))[0], None, every) for side in (cache, forgot))
    slot = jnp.arange(cache.held.capacity)
    new_slots = ((slot >= cache.length[:, None]) & (slot < once.length[:, None]))[:, None]
    assert_same(*([jnp.where(new_slots, side, 0) for side in after.received] for after in (once, again)))
    assert not np.array_equal(once.statistics[0].mean, again.statistics[0].mean)


def test_forked_rows_are_copies():
    rng = np.random.default_rng(2)
    cache = filled(rng, [50, 35, 0])
    rows = np.asarray([1, 1, 0])
    forked = cache.fork(jnp.asarray(rows))
    assert_same(kept(forked), [side[rows] for side in kept(cache)])
    new = entries(rng, NEW)
    after, out, *_ = feed(cache, *new, causal(NEW))
    turned, theirs, *_ = feed(forked, *(side[:, rows] for side in new), causal(NEW))
    np.testing.assert_allclose(theirs, np.asarray(out)[:, rows], atol=1e-6)
    np.testing.assert_array_equal(turned.blocks, np.asarray(after.blocks)[rows])


def test_short_contexts_are_read_whole():
    """Up to the sinks, the local window and what is no whole block; a token more and something is left out."""
    cache = filled(np.random.default_rng(3), [RULE.sinks + RULE.local + RULE.block_size - 1, 5, 0])
    after, _, _, readable = feed(cache, *entries(np.random.default_rng(4), NEW), causal(NEW))
    assert_same([readable[0]], [cache.held.mask(NEW, None).allowed])
    assert (after.blocks == 0).all()
    np.testing.assert_array_equal(after.tokens_read[:, 0], after.length + NEW)


def test_budgets_are_shared_by_the_layers():
    cache = filled(np.random.default_rng(5), [60, 60, 60])
    totals = set()
    for seed in range(8):
        after, *_ = feed(cache, *entries(np.random.default_rng(seed), NEW), causal(NEW))
        assert (after.blocks >= RULE.least).all()
        assert (after.blocks <= RULE.most).all()
        np.testing.assert_array_equal(after.blocks.sum(axis=1) + after.remaining, RULE.top_blocks * LAYERS)
        near = cache.length - RULE.num_blocks(cache.length) * RULE.block_size + NEW
        np.testing.assert_array_equal(after.tokens_read, near[:, None] + after.blocks * RULE.block_size)
        totals |= set(map(tuple, after.blocks.tolist()))
    assert len(totals) > 1
    again = commit(after, None, jnp.asarray([NEW, 0, 1], jnp.int32))
    added = np.asarray(again.tokens_read_in_all - cache.tokens_read_in_all)
    np.testing.assert_array_equal(added, np.where([[True], [False], [True]], after.tokens_read, 0))


def test_planted_keys_are_retrieved_first():
    """A block whose keys are what a query asks for, at the rule's distance; elsewhere keys are noise."""
    rng = np.random.default_rng(6)
    wanted, tokens, cache = rng.normal(size=(KV_HEADS, WIDTH)), 60, empty()
    for start in range(0, tokens + NEW, NEW):
        queries, keys, values = entries(rng, NEW, sharpness=0.1)
        for t in range(NEW):
            if RULE.sinks + 3 * 4 <= start + t < RULE.sinks + 4 * 4:
                keys[:, :, t] = turn(wanted, start + t)
        if start == tokens:
            queries[:, :, 2] = turn(10 * np.repeat(wanted, HEADS // KV_HEADS, axis=0), start + 2 - RULE.local)
        cache, *_ = feed(cache, queries, keys, values, causal(NEW))
        if start < tokens:
            cache = commit(cache, None, jnp.full(BATCH, NEW, jnp.int32))
    assert [window.chosen[:, 0].tolist() for window in cache.windows] == [[3] * BATCH] * LAYERS


@functools.partial(jax.jit, static_argnames="size")
def run(model, cache, tokens, start, size, count):
    """Feed ``size`` tokens from ``start`` on."""
    part = jax.lax.dynamic_slice_in_dim(tokens, start, size, axis=1)
    output = model(part, cache.length[:, None] + jnp.arange(size), cache)
    return output.logits, output.cache.commit(None, count), output.cache


@pytest.mark.slow
def test_reading_all_blocks_is_dense_attention():
    model = tiny_transformer(scale=4.0)
    config = model.module.config
    rule = dataclasses.replace(RULE, top_blocks=40, min_blocks=40)
    cache = empty(rule, 2, 64, rotation=Rotation(config), num_layers=config.num_layers)
    dense = model.init_cache(2, 64)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (2, 60)), jnp.int32)
    both = jnp.full(2, NEW, jnp.int32)
    for start in range(0, 60, NEW):
        got, cache, seen = run(model, cache, tokens, start, NEW, both)
        wanted, dense, _ = run(model, dense, tokens, start, NEW, both)
        np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert (seen.blocks == rule.num_blocks(seen.length)[:, None]).all()
    assert seen.blocks.min() > 5


def test_is_a_cache_and_counts_its_bytes():
    cache = empty()
    assert isinstance(cache, Cache)
    assert cache.capacity >= CAPACITY
    slots, blocks = cache.held.capacity, cache.representatives[0].shape[1]
    assert blocks == (CAPACITY - 2 - 8) // 4 + 2
    assert cache.nbytes == LAYERS * BATCH * KV_HEADS * 4 * (2 * slots * WIDTH + slots + blocks * WIDTH)
    other = empty(rotation=Rotation(dataclasses.replace(ROTATION.config)))
    assert jax.tree.structure(cache) == jax.tree.structure(other), "equal rotations compile to one program"


def test_bad_input_is_refused():
    cache = empty()
    with pytest.raises(ValueError, match="num_new must be at most window, 6; got 7"):
        cache.mask(7, None)
    with pytest.raises(ValueError, match="observe must be called before attend; it was not for layer 1"):
        cache.attend(1, jnp.zeros((BATCH, 1, HEADS, WIDTH)), cache.mask(1, None))
    for name in ("num_layers", "batch_size", "capacity", "num_kv_heads", "num_heads", "head_dim"):
        sizes = {**SHAPE, "batch_size": 1, "capacity": 8, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            RetrievalCache.create(**sizes, rule=RULE, rotation=None)
    with pytest.raises(ValueError, match=re.escape("num_heads must be a multiple of num_kv_heads, 2; got 3")):
        empty(num_heads=3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_loop_carries_the_cache(dtype):
    """What a commit leaves has the shapes and types of what was there before."""
    rng, cache = np.random.default_rng(7), empty(dtype=dtype)
    queries, keys, _ = (jnp.asarray(side, dtype) for side in entries(rng, NEW))

    def step(cache, _):
        mask = cache.mask(NEW, None)
        for layer in range(LAYERS):
            cache = cache.append(layer, keys[layer], keys[layer]).observe(layer, queries[layer])
            out = cache.attend(layer, queries[layer], mask)
        return cache.commit(None, jnp.full(BATCH, NEW, jnp.int32)), out

    cache, out = jax.jit(lambda cache: jax.lax.scan(step, cache, None, length=8))(cache)
    assert cache.length.tolist() == [8 * NEW] * BATCH
    assert out.dtype == jnp.float32
    assert np.isfinite(out).all()
