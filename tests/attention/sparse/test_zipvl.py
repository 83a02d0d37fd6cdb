"""ZipVL: how many tokens of a prompt are important, and which."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.attention.sparse.zipvl import ZipVL, ZipVLCache
from tests.attention.sparse.prompts import causal_mask, prompts, textbook

SHAPE = (3, 40, 4, 2, 6)  # B, T, H, G, E
ALL = ZipVL(last_probes=40, random_probes=0)
scores_of = jax.jit(lambda rule, *rest: rule.scores(*rest), static_argnums=0)


def keys_of(seed, rows=3):
    return jax.random.split(jax.random.key(seed), rows)


@settings(deadline=None, max_examples=10)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(40, 0), (8, 8), (0, 12), (5, 0)]),
    st.lists(st.integers(0, 40), min_size=3, max_size=3),
)
def test_scores_are_those_of_the_probes(seed, sizes, lengths):
    rule = ZipVL(0.9, *sizes)
    q, k, _, rows = prompts(seed, SHAPE, lengths)
    rng = keys_of(seed)
    probes, used = (np.asarray(side) for side in rule.probes(rows, SHAPE[1], rng))
    received, seen = (np.asarray(side) for side in scores_of(rule, q, k, rows, rng))
    q, k = np.asarray(q, np.float64), np.asarray(k, np.float64)
    for row, length in enumerate(lengths):
        chosen = probes[row][used[row]]
        assert len(chosen) == len(set(chosen.tolist())) == min(length, sum(sizes) if sizes[1] else sizes[0])
        assert {*range(max(length - sizes[0], 0), length)} <= {*chosen.tolist()} <= {*range(length)}
        total, sees = np.zeros(40), np.zeros(40)
        for i in chosen:
            sees[: i + 1] += 1
            for h in range(SHAPE[2]):
                weights = np.exp(k[row, : i + 1, h // 2] @ q[row, i, h] / SHAPE[4] ** 0.5)
                total[: i + 1] += weights / weights.sum() / SHAPE[2]
        np.testing.assert_allclose(received[row], total, atol=1e-5)
        np.testing.assert_allclose(seen[row], total / np.maximum(sees, 1), atol=1e-5)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.floats(0.05, 0.99))
def test_as_many_as_hold_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    received = jnp.asarray(rng.random((2, 30)) ** 4, jnp.float32).at[1, 10:].set(0)
    lengths = jnp.asarray([30, 10])
    counts = []
    for at in (threshold, 1.0):
        chosen = np.asarray(ZipVL(at).choose(received, received, lengths))
        for row, length in enumerate([30, 10]):
            ordered = np.sort(np.asarray(received, np.float64)[row])[::-1]
            least = int(np.searchsorted(ordered.cumsum(), at * ordered.sum() * (1 - 1e-7)) + 1) if at < 1 else length
            assert abs(int(chosen[row].sum()) - least) <= (
                at < 1 and abs(ordered.cumsum() - at * ordered.sum()).min() < 1e-5
            )
            assert chosen[row, length - 1]
            assert not chosen[row, length:].any()
            others = np.asarray(received)[row, : length - 1]
            inside = chosen[row, : length - 1]
            assert inside.all() or not inside.any() or others[inside].min() >= others[~inside].max()
        counts.append(chosen.sum(1))
    assert (counts[0] <= counts[1]).all()


def test_attention_on_one_token_makes_one_important():
    received = jnp.zeros((1, 9)).at[0, 8].set(5.0)
    assert np.asarray(ZipVL(0.975).choose(received, received, jnp.asarray([9]))).nonzero()[1].tolist() == [8]


def test_early_tokens_do_not_win_by_being_seen_by_more():
    """With even attention the early tokens receive most; a late one that is looked at twice as much wins only per probe."""
    q = jnp.zeros((1, 40, 1, 2)).at[..., 0].set(1.0)
    k = jnp.zeros((1, 40, 1, 2)).at[0, 30, 0, 0].set(2.0)
    received, seen = (np.asarray(side)[0] for side in ALL.scores(q, k, jnp.asarray([40]), keys_of(0, 1)))
    assert received.argmax() == 0
    assert received[30] < received[5]
    assert seen[30] > np.delete(seen, 30)[5:].max()
    assert abs(received.sum() - 40) < 1e-4, "every probe gives 1"


def test_random_probes_are_unbiased():
    q, k, _, rows = prompts(0, SHAPE, [40, 40, 40])
    exact = np.asarray(ALL.scores(q, k, rows, keys_of(0))[0])
    rule = ZipVL(last_probes=0, random_probes=10)
    mean = np.mean([scores_of(rule, q, k, rows, keys_of(seed))[0] for seed in range(200)], axis=0) * 4
    assert np.abs(mean - exact).mean() < 0.05 * exact.mean()


def test_all_important_is_dense_and_some_important_a_mask():
    lengths = [40, 23, 5]
    q, k, v, rows = prompts(1, SHAPE, lengths)
    rule = ZipVL(1.0, 40, 0)
    everything = rule.important(q, k, rows, keys_of(0))
    assert everything.sum(1).tolist() == lengths
    mask = np.broadcast_to(rule.mask(everything), (3, 4, 40, 40))
    np.testing.assert_array_equal(mask, causal_mask(SHAPE, lengths))
    some = ZipVL(0.8, 40, 0).important(q, k, rows, keys_of(0))
    counts = some.sum(1).tolist()
    assert all(0 < count < length for count, length in zip(counts[:2], lengths))
    mask = np.asarray(rule.mask(some))
    assert mask.sum((1, 2, 3)).tolist() == [count * (count + 1) // 2 for count in counts]
    mask = np.broadcast_to(mask, (3, 4, 40, 40))
    out = masked_attention(q, k, v, jnp.asarray(mask))
    np.testing.assert_allclose(out, textbook(q, k, v, mask)[0], atol=1e-5)
    assert (np.asarray(out)[~np.asarray(some)] == 0).all(), "unimportant tokens get no attention"


@pytest.mark.slow
def test_every_row_is_as_if_alone():
    q, k, _, rows = prompts(2, SHAPE, [40, 23, 5])
    rule, rng = ZipVL(0.7, 6, 6), keys_of(3)
    together = rule.important(q, k, rows, rng)
    assert len(set(together.sum(1).tolist())) > 1, "rows differ in how many"
    for row in range(3):
        alone = rule.important(*(side[row : row + 1] for side in (q, k, rows, rng)))
        np.testing.assert_array_equal(alone[0], together[row])


@settings(deadline=None, max_examples=100)
@given(
    ratio=st.one_of(st.none(), st.floats(0.001, 1), st.sampled_from([0.07, 0.5, 0.7])),
    window=st.integers(0, 50),
    most=st.integers(1, 60),
)
def test_there_is_room_for_whatever_is_important(ratio, window, most):
    """Any prompt of at most so many tokens, with as many important tokens in the window as there can be, or as few."""
    fine, coarse = ZipVLCache(ratio=ratio, window=window).rooms(most)
    needed = []
    for length in range(most + 1):
        old = max(length - window, 0)
        for important in range(length + 1) if ratio is None else [math.ceil(round(ratio * length, 9))]:
            needed += [(min(important, old), old - max(important - (length - old), 0))]
    assert (fine, coarse) == (max(most for most, _ in needed), max(1, *(most for _, most in needed)))


def test_a_share_of_tokens_is_counted_alike_everywhere():
    rule = ZipVL(ratio=0.07, last_probes=1, random_probes=0)
    counts = rule.counts(100)
    assert counts[100] == 7  # not 8, as 0.07 * 100 is in binary
    lengths = jnp.arange(1, 101)
    scores = jnp.asarray(np.random.default_rng(0).random((100, 100)), jnp.float32)
    np.testing.assert_array_equal(rule.choose(scores, scores, lengths).sum(1), counts[1:])
    assert ZipVL(ratio=1e-12).counts(3).tolist() == [0, 1, 1, 1]
    with pytest.raises(
        ValueError, match="ratio must be a number where important tokens are counted before they are seen; got None"
    ):
        ZipVL().counts(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.0}, "threshold must be more than 0 and at most 1; got 0.0"),
        ({"threshold": 1.1}, "threshold must be more than 0 and at most 1; got 1.1"),
        ({"threshold": float("nan")}, "threshold must be more than 0 and at most 1; got nan"),
        ({"last_probes": -1}, "last_probes must be at least 0, got -1"),
        ({"random_probes": -1}, "random_probes must be at least 0, got -1"),
        ({"last_probes": 0, "random_probes": 0}, "last_probes + random_probes must be at least 1; got 0"),
    ],
)
def test_bad_rules_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ZipVL(**changes)


def test_bad_arguments_are_refused():
    q, k, _, rows = prompts(0, SHAPE, [40, 20, 3])
    with pytest.raises(ValueError, match="q must have at least as many tokens as there are probes, 128; got 40"):
        ZipVL().important(q, k, rows, keys_of(0))
    with pytest.raises(ValueError, match=r"k must be of the tokens of q, \[3, 40\]; got \[3, 30\]"):
        ALL.important(q, k[:, :30], rows, keys_of(0))
    with pytest.raises(ValueError, match=r"lengths must be in 0\.\.40; got 41"):
        ALL.important(q, k, rows.at[0].set(41), keys_of(0))
