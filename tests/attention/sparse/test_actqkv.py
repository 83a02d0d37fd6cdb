"""ActQKV's equations: statistics against whole texts, probes, scores, densities and budgets by hand."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse import actqkv
from jaxdec.attention.sparse.actqkv import (
    ActQKV,
    QueryStatistics,
    activation_bias,
    cosine_scores,
    information_density,
    update,
)

WIDTH = 6
RULE = ActQKV(block_size=4, sinks=2, local=8, top_blocks=4, representatives=2, window=5, warmup=5, min_windows=2)
EVERY = jnp.ones((1, 5), bool)


def seen(rng, windows=3, batch=1, size=5, scale=1.0):
    """Statistics of some windows, and the queries in them."""
    statistics, every = QueryStatistics.create(batch, WIDTH), []
    for _ in range(windows):
        queries = (rng.normal(size=(batch, size, WIDTH)) * scale + 1).astype(np.float32)
        statistics = update(statistics, jnp.asarray(queries), jnp.ones((batch, size), bool), 10**6)
        every.append(queries)
    return statistics, np.concatenate(every, axis=1)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6))
def test_statistics_are_those_of_all_tokens(seed, windows):
    """Ragged windows, empty ones too, with NaN where a row has nothing."""
    rng = np.random.default_rng(seed)
    statistics, texts = QueryStatistics.create(2, WIDTH), [[], []]
    for valid in windows:
        valid = np.asarray([valid, rng.random(4) < 0.5])
        queries = rng.normal(size=(2, 4, WIDTH)) * 3 + 5
        for row in range(2):
            texts[row] += list(queries[row][valid[row]])
        queries = np.where(valid[..., None], queries, np.nan).astype(np.float32)
        statistics = update(statistics, jnp.asarray(queries), jnp.asarray(valid), 10**6)
    for row, text in enumerate(texts):
        assert statistics.count[row] == len(text)
        if text:
            np.testing.assert_allclose(statistics.mean[row], np.mean(text, axis=0), rtol=1e-4)
        wanted = np.var(text, axis=0, ddof=1) if len(text) > 1 else np.zeros(WIDTH)
        np.testing.assert_allclose(statistics.variance[row], wanted, rtol=1e-3)


def test_statistics_follow_the_published_recurrence():
    """With windows of one length, counted in windows as there; so they do with a memory that is full."""
    rng = np.random.default_rng(0)
    c, memory = 5, 3
    statistics, mean, variance = QueryStatistics.create(1, WIDTH), None, None
    for number in range(8):
        queries = rng.normal(size=(1, c, WIDTH)).astype(np.float32)
        statistics = update(statistics, jnp.asarray(queries), EVERY, memory * c)
        m, v, n = queries[0].mean(0), queries[0].var(0), min(number, memory)
        if mean is None:
            mean, variance = m, v / (c - 1) * c
        else:
            variance = (variance * (n - 1 / c) + v + (m - mean) ** 2 / (1 + 1 / n)) / (n + 1 - 1 / c)
            mean = (n * mean + m) / (n + 1)
        np.testing.assert_allclose(statistics.mean[0], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(statistics.variance[0], variance, rtol=1e-4)
    assert statistics.count[0] == memory * c


def test_bias_is_the_deviation_in_variances():
    rng = np.random.default_rng(1)
    statistics, every = seen(rng)
    queries = rng.normal(size=(1, 5, WIDTH)).astype(np.float32)
    mean, variance = every[0].mean(0), every[0].var(0, ddof=1)
    wanted = ((queries[0] - mean) ** 2 / (variance + variance.mean() / 100)).mean(1)
    np.testing.assert_allclose(activation_bias(statistics, jnp.asarray(queries))[0], wanted, rtol=1e-4)


def test_bias_does_not_depend_on_the_scale_of_a_coordinate(monkeypatch):
    rng = np.random.default_rng(2)
    statistics, _ = seen(rng)
    queries = jnp.asarray(rng.normal(size=(1, 5, WIDTH)), jnp.float32)

    def scaled(by):
        by = jnp.asarray(by, jnp.float32)
        other = statistics.replace(mean=statistics.mean * by, variance=statistics.variance * by**2)
        return np.asarray(activation_bias(other, queries * by)[0])

    plain = scaled([1] * WIDTH)
    np.testing.assert_allclose(scaled([7] * WIDTH), plain, rtol=1e-5)
    assert np.abs(scaled([7, *[1] * (WIDTH - 1)]) / plain - 1).max() > 1e-3, "the floor is shared"
    monkeypatch.setattr(actqkv, "FLOOR", 0.0)
    np.testing.assert_allclose(scaled([7, *[1] * (WIDTH - 1)]), scaled([1] * WIDTH), rtol=1e-5)


@pytest.mark.parametrize("probe", actqkv.PROBES)
def test_weights_are_shares_of_the_valid_tokens(probe):
    rng = np.random.default_rng(3)
    statistics, _ = seen(rng, batch=3)
    rule = dataclasses.replace(RULE, probe=probe)
    queries = rng.normal(size=(3, 5, WIDTH)).astype(np.float32)
    queries[0, 3] *= 9
    valid = np.asarray([[1, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    queries[~valid] = np.nan
    weights = np.asarray(rule.weights(statistics, jnp.asarray(queries), jnp.asarray(valid)))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), [1, 1, 0], rtol=1e-6)
    assert (weights[~valid] == 0).all()
    np.testing.assert_allclose(weights[1], valid[1], err_msg="one token is the probe")
    wanted = {"mean": [0.25] * 4, "last": [0, 0, 0, 1], "max_norm": [0, 0, 0, 1]}
    if probe in wanted:
        np.testing.assert_allclose(weights[0, :4], wanted[probe])
    else:
        after = update(statistics, jnp.asarray(queries), jnp.asarray(valid), 10**6)
        bias = np.asarray(activation_bias(after, jnp.asarray(queries)))
        np.testing.assert_allclose(weights[0, :4], bias[0, :4] / bias[0, :4].sum(), rtol=1e-5)
        assert weights[0, 3] > 0.6, "an unusual token weighs most"


def test_probes_of_equal_and_of_new_rows():
    """Equal queries are the probe; before the warm-up it is the mean; a first token alone is its own probe."""
    rng = np.random.default_rng(4)
    statistics, _ = seen(rng)
    one = rng.normal(size=(2, 3)).astype(np.float32)
    same = jnp.broadcast_to(jnp.asarray(one), (1, 5, 2, 3))
    np.testing.assert_allclose(RULE.probe_query(statistics, same, EVERY)[0], one, rtol=1e-5)
    nothing = QueryStatistics.create(1, WIDTH)
    queries = jnp.asarray(rng.normal(size=(1, 5, 2, 3)), jnp.float32)
    np.testing.assert_allclose(RULE.probe_query(nothing, queries, EVERY)[0], queries[0].mean(0), rtol=1e-5)
    eager = dataclasses.replace(RULE, warmup=0)
    assert np.abs(eager.probe_query(nothing, queries, EVERY)[0] - queries[0].mean(0)).max() > 1e-3
    for state in (nothing, statistics):
        probe = eager.probe_query(state, queries[:, :1], EVERY[:, :1])
        np.testing.assert_allclose(probe[0], queries[0, 0], rtol=1e-5)
    np.testing.assert_allclose(eager.probe_query(nothing, same, EVERY)[0], one, rtol=1e-5)


def test_scores_are_cosines():
    rng = np.random.default_rng(5)
    blocks = rng.normal(size=(2, 5, 2, 4)).astype(np.float32)
    probe = rng.normal(size=(2, 6, 4)).astype(np.float32)
    counts = np.asarray([5, 3])
    holes = blocks.copy()
    holes[1, 3:] = np.nan
    scores = np.asarray(
        cosine_scores(jnp.asarray(holes.reshape(2, 5, 8)), jnp.asarray(probe), jnp.asarray(counts, jnp.int32))
    )
    repeated = np.repeat(blocks, 3, axis=2).reshape(2, 5, -1)
    for row in range(2):
        for block in range(counts[row]):
            a, b = repeated[row, block], probe[row].ravel()
            assert scores[row, block] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert (scores[1, 3:] == -np.inf).all()
    scaled = cosine_scores(
        jnp.asarray(holes.reshape(2, 5, 8) * 7), jnp.asarray(probe / 9), jnp.asarray(counts, jnp.int32)
    )
    np.testing.assert_allclose(scaled, scores, atol=1e-6)
    none = cosine_scores(jnp.zeros((1, 2, 8)), jnp.zeros((1, 6, 4)), jnp.asarray([2], jnp.int32))
    np.testing.assert_array_equal(none, [[0, 0]])


def test_density_is_the_normalised_entropy():
    scores = jnp.asarray(
        [[1.0, 1, 1, -np.inf], [50, 1, 0, -np.inf], [0, np.log(3), -np.inf, -np.inf], [3, -np.inf, -np.inf, -np.inf]]
    )
    counts = jnp.asarray([3, 3, 2, 1], jnp.int32)
    uneven = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / np.log(2)
    np.testing.assert_allclose(information_density(scores, counts), [1, 0, uneven, 1], atol=1e-5)
    none = information_density(jnp.full((1, 3), -jnp.inf), jnp.asarray([0], jnp.int32))
    np.testing.assert_array_equal(none, [1])
    sharp = dataclasses.replace(RULE, temperature=0.1)
    np.testing.assert_allclose(sharp.density(scores, counts), information_density(scores * 10, counts), rtol=1e-6)
    assert sharp.density(scores, counts)[2] < uneven


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.integers(0, 9),
    st.integers(0, 30),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
def test_budgets(densities, top_blocks, blocks, dynamic, known, least):
    """Within bounds, in total what there is, and as the loop says."""
    least = min(least, top_blocks)
    rule = dataclasses.replace(RULE, top_blocks=top_blocks, min_blocks=least, dynamic=dynamic)
    layers, remaining, taken, raised = len(densities), top_blocks * len(densities), [], 0
    for layer in range(layers):
        count = rule.allot(
            layer,
            jnp.asarray([remaining], jnp.int32),
            jnp.asarray([densities], jnp.float32),
            jnp.asarray([known]),
            jnp.asarray([blocks], jnp.int32),
        )
        rest = np.float32(densities[layer:]).sum()
        share = np.float32(densities[layer]) / rest if dynamic and known and rest > 0 else 1 / (layers - layer)
        raw = remaining * share
        bounds = min(blocks, least), min(blocks, 2 * top_blocks)
        near = {float(np.clip(np.round(raw + nudge), *bounds)) for nudge in (-1e-4, 0, 1e-4)}
        assert int(count[0]) in near
        taken.append(int(count[0]))
        raised += max(taken[-1] - round(raw), 0)  # where the lower bound asked for more
        remaining -= taken[-1]
    assert sum(taken) <= top_blocks * layers + raised
    if not (dynamic and known):
        assert taken == [min(top_blocks, blocks)] * layers or blocks < top_blocks
    if blocks <= least:
        assert taken == [blocks] * layers


def test_flat_layers_read_more():
    rule = dataclasses.replace(RULE, top_blocks=10, min_blocks=1)
    remaining, got = 30, []
    for layer in range(3):
        state = (jnp.asarray([remaining], jnp.int32), jnp.asarray([[0.9, 0.3, 0.6]]), jnp.asarray([True]))
        got.append(int(rule.allot(layer, *state, jnp.asarray([99], jnp.int32))[0]))
        remaining -= got[-1]
    assert got == [15, 5, 10]


def test_blocks_lie_between_the_sinks_and_the_local_window():
    lengths = jnp.asarray([0, 2, 13, 14, 17, 18, 30], jnp.int32)
    assert RULE.num_blocks(lengths).tolist() == [0, 0, 0, 1, 1, 2, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"top_blocks": -1}, "top_blocks must be at least 0, got -1"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"memory": 0}, "memory must be at least 1, got 0"),
        ({"history": 0}, "history must be at least 1, got 0"),
        ({"min_windows": 0}, "min_windows must be at least 1, got 0"),
        ({"sinks": -1}, "sinks must be at least 0, got -1"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"representatives": 5}, "representatives must be in 1..block_size, 4; got 5"),
        ({"representatives": 0}, "representatives must be in 1..block_size, 4; got 0"),
        ({"local": 4}, "local must be at least window, 5: a pass must not reach beyond it; got 4"),
        ({"probe": "median"}, "probe must be one of activation, mean, last, max_norm; got 'median'"),
        ({"min_blocks": 5}, "min_blocks must be in 0..top_blocks, 4; got 5"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive and finite, got nan"),
    ],
)
def test_rules_without_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(RULE, **changes)


def test_the_defaults_read_2048_tokens():
    rule = ActQKV()
    assert rule.sinks + rule.local + rule.top_blocks * rule.block_size == 2048
    assert (rule.least, rule.most) == (32, 92)
