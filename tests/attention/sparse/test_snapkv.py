"""SnapKV and Ada-SnapKV: what each head keeps of a prompt, against loops in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.attention.sparse.snapkv import SnapKV
from tests.attention.sparse.prompts import prompts

SHAPE = (3, 48, 4, 2, 6)  # B, T, H, G, E
SNAP = SnapKV(capacity=12, window=8, kernel=5, sinks=2, local=3)
ADA = AdaSnapKV(capacity=12, window=8, kernel=5, sinks=2, local=3, min_ratio=0.5)


def scores_by_loops(rule, q, k, lengths):
    """``[B, G, S]`` in float64."""
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    batch, tokens, heads, width = q.shape
    group = heads // k.shape[2]
    scores = np.zeros((batch, k.shape[2], tokens))
    for b, length in enumerate(lengths):
        for g in range(k.shape[2]):
            weights = np.zeros((group, rule.window, tokens))
            for h in range(group):
                for n, i in enumerate(range(max(length - rule.window, 0), length)):
                    row = np.exp(k[b, : i + 1, g] @ q[b, i, g * group + h] / width**0.5)
                    weights[h, n, : i + 1] = row / row.sum()
            received = weights.max((0, 1)) if isinstance(rule, AdaSnapKV) else weights.mean(0).sum(0)
            for j in range(tokens):
                near = received[max(j - rule.kernel // 2, 0) : j + rule.kernel // 2 + 1]
                scores[b, g, j] = near.sum() / rule.kernel
    return scores


def keep_by_loops(rule, scores, lengths):
    keep = np.zeros(scores.shape, bool)
    for b, length in enumerate(lengths):
        always = {*range(min(rule.sinks, length)), *range(max(length - rule.local, 0), length)}
        ranked = [sorted(range(length), key=lambda j: (j not in always, -s[j], j)) for s in scores[b]]
        first = rule.minimum if isinstance(rule, AdaSnapKV) else rule.capacity
        left = []
        for g, order in enumerate(ranked):
            keep[b, g, order[:first]] = True
            left += [(-scores[b, g, j], g, j) for j in order[first:]]
        for _, g, j in sorted(left)[: (rule.capacity - first) * len(ranked)]:
            keep[b, g, j] = True
    return keep


lengths_of_rows = st.lists(st.integers(0, SHAPE[1]), min_size=3, max_size=3)
scores_of = jax.jit(lambda rule, q, k, lengths: rule.scores(q, k, lengths), static_argnums=0)
keep_of = jax.jit(lambda rule, q, k, lengths: rule.keep(q, k, lengths), static_argnums=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([SNAP, ADA]), lengths_of_rows)
def test_keeps_what_the_loops_keep(seed, rule, lengths):
    """Behind the rows there is NaN; rows are shorter than the window, than what is kept, and longer."""
    q, k, _, rows = prompts(seed, SHAPE, lengths)
    scores = np.asarray(scores_of(rule, q, k, rows))
    expected = scores_by_loops(rule, q, k, lengths)
    inside = np.arange(SHAPE[1]) < np.asarray(lengths)[:, None, None] - rule.kernel // 2
    np.testing.assert_allclose(np.where(inside, scores, 0), np.where(inside, expected, 0), atol=1e-5)
    keep = np.asarray(keep_of(rule, q, k, rows))
    np.testing.assert_array_equal(keep, keep_by_loops(rule, scores, lengths))
    position = np.arange(SHAPE[1])
    for row, length in enumerate(lengths):
        assert keep[row].sum() == SHAPE[3] * min(rule.capacity, length), "the total is exact"
        always = (position < min(rule.sinks, length)) | ((position >= length - rule.local) & (position < length))
        assert keep[row][:, always].all()
        least = rule.minimum if isinstance(rule, AdaSnapKV) else rule.capacity
        assert (keep[row].sum(-1) >= min(least, length)).all()


def test_heads_that_look_at_more_tokens_keep_more():
    rng = np.random.default_rng(0)
    q, k, _, rows = prompts(0, SHAPE, [48, 48, 48])
    q = np.array(q)
    q[:, :, :2] *= 0.05  # the first head looks everywhere
    q[:, -8:, 2:] = 4 * np.asarray(k)[:, 20:28, 1:] + 0.1 * rng.normal(size=(3, 8, 2, 6))  # the second at eight tokens
    counts = np.asarray(ADA.keep(jnp.asarray(q), k, rows)).sum(-1)
    assert (counts[:, 1] > counts[:, 0]).all()
    assert (np.asarray(SNAP.keep(jnp.asarray(q), k, rows)).sum(-1) == SNAP.capacity).all()


def test_with_the_whole_budget_fixed_every_head_keeps_the_same_number():
    q, k, _, rows = prompts(2, SHAPE, [48, 30, 5])
    fixed = AdaSnapKV(capacity=12, window=8, kernel=5, sinks=2, local=3, min_ratio=1.0)
    assert fixed.keep(q, k, rows).sum(-1).tolist() == [[12, 12], [12, 12], [5, 5]]


def test_a_planted_token_is_kept():
    q, k, _, rows = prompts(4, SHAPE, [48] * 3)
    k = k.at[:, 17].multiply(4)
    q = q.at[:, -8:].set(jnp.asarray(np.repeat(np.asarray(k)[:, 17:18], 2, axis=2)) * 5)
    assert np.asarray(SNAP.keep(q, k, rows))[:, :, 17].all()


@pytest.mark.slow
def test_every_row_is_as_if_alone():
    q, k, _, rows = prompts(5, SHAPE, [48, 20, 3])
    for rule in (SNAP, ADA):
        keep = np.asarray(rule.keep(q, k, rows))
        for row in range(3):
            alone = rule.keep(q[row : row + 1], k[row : row + 1], rows[row : row + 1])
            np.testing.assert_array_equal(alone[0], keep[row])


@pytest.mark.parametrize("rule", [SnapKV, AdaSnapKV])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 132}, "capacity must be more than sinks + local, 132; got 132"),
        ({"capacity": 500, "window": 0}, "window must be at least 1, got 0"),
        ({"capacity": 500, "kernel": 4}, "kernel must be odd and at least 1, got 4"),
        ({"capacity": 500, "sinks": -1}, "sinks must be at least 0, got -1"),
        ({"capacity": 500, "local": -1}, "local must be at least 0, got -1"),
    ],
)
def test_bad_rules_are_refused(rule, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rule(**changes)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratios_that_are_none_are_refused(ratio):
    with pytest.raises(ValueError, match=r"min_ratio must be in 0\.\.1, got"):
        AdaSnapKV(capacity=500, min_ratio=ratio)


def test_bad_arguments_are_refused():
    q, k, _, rows = prompts(0, SHAPE, [48, 20, 3])
    with pytest.raises(ValueError, match="q must have more tokens than window, 8; got 8"):
        SNAP.keep(q[:, :8], k[:, :8], jnp.minimum(rows, 8))
    with pytest.raises(ValueError, match=r"k must be of the tokens of q, \[3, 48\]; got \[3, 40\]"):
        SNAP.keep(q, k[:, :40], rows)
    with pytest.raises(ValueError, match=r"lengths must be in 0\.\.48; got 49"):
        SNAP.keep(q, k, rows.at[0].set(49))
    with pytest.raises(ValueError, match="q must have a multiple of k's 2 heads; got 3"):
        SNAP.keep(q[:, :, :3], k, rows)
