"""Quest: bounds, pages, attention to them, and summaries that follow a cache."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.quest import PageSummary, Quest, quest_attention
from jaxdec.cache import ContiguousCache
from pallas_kernels import merge, sparse_decode_attention
from pallas_kernels.decode_attention.new_tokens import attend_new_tokens
from tests.attention.sparse.prompts import textbook
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

B, H, G, E, CAPACITY, PAGE = 3, 4, 2, 6, 128, 8
attend = jax.jit(quest_attention, static_argnames="rule")


def slots(seed, lengths, num_new, sharpness=2.0):
    """Queries of new tokens and a cache that holds NaN behind them."""
    rng = np.random.default_rng(seed)
    q = jnp.asarray(rng.normal(size=(B, num_new, H, E)) * sharpness, jnp.float32)
    k, v = rng.normal(size=(2, B, G, CAPACITY, E)).astype(np.float32)
    behind = np.arange(CAPACITY) >= np.asarray(lengths)[:, None] + num_new
    k, v = (jnp.asarray(np.where(behind[:, None, :, None], np.nan, side)) for side in (k, v))
    return q, k, v, jnp.asarray(lengths, jnp.int32)


def tree(seed, num_new):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.tril(rng.random((B, num_new, num_new)) < 0.5) | np.eye(num_new, dtype=bool))


def readable(lengths, num_new, visible=None):
    """All that new tokens may read, ``[B, 1, T, S]``."""
    visible = (
        np.broadcast_to(np.tril(np.ones((num_new,) * 2, bool)), (B, num_new, num_new)) if visible is None else visible
    )
    mask = np.zeros((B, 1, num_new, CAPACITY), bool)
    for row, length in enumerate(lengths):
        mask[row, :, :, :length] = True
        mask[row, 0, :, length : length + num_new] = visible[row]
    return mask


def dense(q, k, v, mask):
    mask = np.broadcast_to(mask, (B, H, *mask.shape[2:]))
    return textbook(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)


def chosen_by_loops(rule, q, k, lengths):
    """Slots of whole pages that are read: ``[B, H, T, S]``, in float64."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    mask = np.zeros((B, H, q.shape[1], CAPACITY), bool)
    for row, length in enumerate(lengths):
        whole = length // rule.page_size
        for t in range(q.shape[1]):
            bound = np.zeros((H, whole))
            for h in range(H):
                for page in range(whole):
                    keys = k[row, h // (H // G), page * rule.page_size : (page + 1) * rule.page_size]
                    bound[h, page] = np.maximum(q[row, t, h] * keys.min(0), q[row, t, h] * keys.max(0)).sum()
            if rule.share_heads:
                bound = np.repeat(bound.reshape(G, H // G, whole).sum(1), H // G, axis=0)
            bound[:, : rule.sink_pages] = np.inf
            for h in range(H):
                for page in np.argsort(-bound[h], kind="stable")[: rule.budget // rule.page_size]:
                    mask[row, h, t, page * rule.page_size : (page + 1) * rule.page_size] = True
            mask[row, :, t, whole * rule.page_size :] = True
    return mask


RULES = [Quest(24, PAGE), Quest(16, PAGE, sink_pages=1, share_heads=False), Quest(40, PAGE, sink_pages=2)]


@settings(deadline=None, max_examples=4)
@given(
    st.integers(0, 10**6),
    st.sampled_from(RULES),
    st.lists(st.integers(0, CAPACITY - 3), min_size=B, max_size=B),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_reads_what_the_loops_choose_and_nothing_else(seed, rule, lengths, num_new, by_tree):
    q, k, v, length = slots(seed, lengths, num_new)
    visible = tree(seed, num_new) if by_tree else None
    summary = PageSummary.of(k, PAGE)
    mask = np.asarray(rule.mask(q, summary, length, visible))
    np.testing.assert_array_equal(mask, chosen_by_loops(rule, q, k, lengths) & readable(lengths, num_new, visible))
    out, lse = attend(q, k, v, length, summary, rule=rule, visible=visible)
    expected, expected_lse = dense(q, k, v, mask)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-5)


@pytest.mark.parametrize("share_heads", [True, False])
def test_the_kernel_reads_the_same_pages(share_heads):
    """With whole pages in every row, what is read beside them are the new tokens."""
    q, k, v, length = slots(2, [0, 24, 120], 3)
    summary, rule = PageSummary.of(k, PAGE), Quest(32, PAGE, share_heads=share_heads)
    pages, used = rule.pages(q, summary, length)
    chosen = sparse_decode_attention(q, k, v, length, pages, used.sum(-1), page_size=PAGE)
    visible = jnp.asarray(np.broadcast_to(np.tri(3, dtype=bool), (B, 3, 3)))
    new = attend_new_tokens(q, k.swapaxes(1, 2), v.swapaxes(1, 2), length, visible, E**-0.5)
    for ours, theirs in zip(merge([chosen, new]), attend(q, k, v, length, summary, rule=rule)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("share_heads", [True, False])
def test_a_full_budget_is_dense_attention(share_heads):
    lengths = [0, 70, CAPACITY - 3]
    q, k, v, length = slots(1, lengths, 3)
    out, lse = attend(q, k, v, length, PageSummary.of(k, PAGE), rule=Quest(CAPACITY, PAGE, share_heads=share_heads))
    expected, expected_lse = dense(q, k, v, readable(lengths, 3))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from([1, 2, 8, 16]))
def test_bounds_hold_for_every_key_of_a_page(seed, scale, page_size):
    q, k, _, _ = slots(seed, [CAPACITY - 1] * B, 1, sharpness=scale)
    bound = Quest(page_size, page_size, share_heads=False).bounds(q, PageSummary.of(k, page_size))[:, :, 0]
    scores = np.einsum("bhe,bhse->bhs", q[:, 0], np.repeat(k, H // G, axis=1))
    largest = scores.reshape(B, H, -1, page_size).max(-1)
    assert (np.asarray(bound) >= largest - 1e-5 * scale).all()
    if page_size == 1:
        np.testing.assert_allclose(bound, largest, rtol=1e-4, atol=1e-5 * scale)
    shared = Quest(page_size, page_size).bounds(q, PageSummary.of(k, page_size))[:, :, 0]
    np.testing.assert_allclose(shared, np.asarray(bound).reshape(B, G, H // G, -1).sum(2), rtol=1e-4, atol=1e-4 * scale)


def test_one_page_short_costs_no_more_than_that_page_weighs():
    lengths = [CAPACITY - 1] * B
    worst = 0
    for seed in range(5):
        q, k, v, length = slots(seed, lengths, 1)
        summary, full = PageSummary.of(k, PAGE), readable(lengths, 1)
        rule = Quest(CAPACITY - 2 * PAGE, PAGE, share_heads=False)  # of CAPACITY / PAGE - 1 whole pages
        assert (np.asarray(rule.mask(q, summary, length)).sum(-1) == full.sum(-1) - PAGE).all()
        out, lse = attend(q, k, v, length, summary, rule=rule)
        expected, expected_lse = dense(q, k, v, full)
        missing = 1 - np.exp(np.asarray(lse) - expected_lse)
        error = np.abs(np.asarray(out) - expected).max(-1)
        assert (error <= 2 * missing * np.nanmax(np.abs(v)) + 1e-5).all()
        worst = max(worst, error.max())
    assert worst > 1e-5, "some page weighs something"


@pytest.mark.slow
def test_a_larger_budget_reads_more_and_errs_less():
    lengths, errors = [CAPACITY - 1] * B, []
    budgets = [PAGE, 4 * PAGE, 10 * PAGE, CAPACITY]
    masks = []
    for budget in budgets:
        error = []
        for seed in range(4):
            q, k, v, length = slots(seed, lengths, 1)
            rule, summary = Quest(budget, PAGE), PageSummary.of(k, PAGE)
            error.append(
                np.abs(attend(q, k, v, length, summary, rule=rule)[0] - dense(q, k, v, readable(lengths, 1))[0])
            )
        errors.append(np.mean(error))
        masks.append(np.asarray(rule.mask(q, summary, length)))
        assert (masks[-1].sum(-1) == min(budget, CAPACITY - PAGE) + PAGE).all()
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_summaries_follow_commits_and_rejected_drafts():
    """Drafts are written over, kept with gaps, and committed tokens forgotten; only whole pages of summaries count."""
    rng = np.random.default_rng(0)
    cache = ContiguousCache.create(
        num_layers=1, batch_size=B, capacity=CAPACITY, num_kv_heads=G, head_dim=E, dtype=jnp.float32
    )
    nan = tuple(jnp.full_like(array, jnp.nan) for array in cache.keys)
    cache = cache.replace(keys=nan, values=nan)
    summary = PageSummary.of(cache.keys[0], PAGE)
    update = jax.jit(PageSummary.commit, static_argnames="most")
    whole_pages = 0
    for step in range(24):
        size = int(rng.choice([1, 5, 20])) if step else 20
        size = min(size, CAPACITY - int(cache.length.max()))
        new = jnp.asarray(rng.normal(size=(2, B, size, G, E)), jnp.float32)
        cache = cache.append(0, *new)
        before = cache.length
        if step % 5 == 4:
            cache = cache.commit(None, -jnp.minimum(before, jnp.asarray(rng.integers(0, 12, B), jnp.int32)))
        else:
            path = np.stack([np.sort(rng.permutation(size)) for _ in range(B)])
            count = rng.integers(0, size + 1, B)
            for row in range(B):
                path[row, : count[row]] = np.sort(rng.permutation(size)[: count[row]])
            cache = cache.commit(jnp.asarray(path, jnp.int32), jnp.asarray(count, jnp.int32))
            summary = update(summary, cache.keys[0], before, most=size)
        fresh = PageSummary.of(cache.keys[0], PAGE)
        for row in range(B):
            pages = int(cache.length[row]) // PAGE
            whole_pages = max(whole_pages, pages)
            for got, wanted in [(summary.low, fresh.low), (summary.high, fresh.high)]:
                np.testing.assert_array_equal(got[row, :, :pages], wanted[row, :, :pages])
    assert whole_pages > 5
    forked = summary.fork(jnp.asarray([2, 0]))
    np.testing.assert_array_equal(forked.low, summary.low[jnp.asarray([2, 0])])
    np.testing.assert_array_equal(forked.high, summary.high[jnp.asarray([2, 0])])


def test_rows_do_not_depend_on_their_neighbours():
    lengths = [5, 60, 100]
    q, k, v, length = slots(3, lengths, 2)
    rule = RULES[1]
    out = attend(q, k, v, length, PageSummary.of(k, PAGE), rule=rule)[0]
    for row in range(B):
        one = [side[row : row + 1] for side in (q, k, v, length)]
        alone = attend(*one, PageSummary.of(one[1], PAGE), rule=rule)[0]
        np.testing.assert_allclose(alone[0], out[row], atol=1e-6)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"budget": 8, "page_size": 0}, "page_size must be at least 1, got 0"),
        ({"budget": 20}, "budget must be a multiple of page_size, 16, and not 0; got 20"),
        ({"budget": 0}, "budget must be a multiple of page_size, 16, and not 0; got 0"),
        ({"budget": 32, "sink_pages": 2}, "sink_pages must be in 0..1, fewer than are read; got 2"),
        ({"budget": 32, "sink_pages": -1}, "sink_pages must be in 0..1, fewer than are read; got -1"),
    ],
)
def test_bad_rules_are_refused(settings_, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Quest(**settings_)


def test_bad_arguments_are_refused():
    q, k, v, length = slots(0, [4, 4, 4], 1)
    summary, rule = PageSummary.of(k, PAGE), Quest(16, PAGE)
    with pytest.raises(ValueError, match="page_size must be at least 1 and divide the 128 slots; got 24"):
        PageSummary.of(k, 24)
    with pytest.raises(
        ValueError, match=r"summary must be of pages of 8 tokens and 128 slots; got pages of 16 and 128"
    ):
        quest_attention(q, k, v, length, PageSummary.of(k, 16), rule)
    with pytest.raises(ValueError, match=r"summary must be of pages of 8 tokens and 128 slots; got pages of 8 and 64"):
        quest_attention(q, k, v, length, PageSummary.of(k[:, :, :64], PAGE), rule)
    with pytest.raises(ValueError, match="queries must have a multiple of the keys' 2 heads; got 3"):
        quest_attention(q[:, :, :3], k, v, length, summary, rule)
    with pytest.raises(ValueError, match=r"length must be in 0\.\.127; got 128"):
        quest_attention(q, k, v, jnp.asarray([128, 0, 0]), summary, rule)
