"""ADED: updates against a dictionary, best-first search against an enumeration, tree search against plain Python."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative import Aded, Speculative, puct
from jaxdec.decoding.speculative.aded import best_first
from jaxdec.decoding.speculative.tree import DraftTree, check_tree
from jaxdec.decoding.speculative.trigram_table import TrigramTable, build_trigram_table
from tests.decoding.speculative.puct_reference import most_visited, simulate
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.tiny_models import markov_model, tiny_transformer

VOCAB = 6
some_texts = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=40), min_size=1, max_size=4)


@functools.partial(jax.jit, static_argnums=(3, 4))
def simulate_jitted(table, pair, key, depth, options):
    return puct.simulate(table.lookup, pair, key, depth, options)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def search_jitted(table, pair, key, num_nodes, max_depth, options):
    return puct.search(table.lookup, pair, key, num_nodes, max_depth, options)


@functools.partial(jax.jit, static_argnums=(2, 3))
def best_first_jitted(table, pair, num_nodes, max_depth):
    return best_first(table.lookup, pair, num_nodes, max_depth)


update_jitted = jax.jit(Aded.update, static_argnums=0)
PAIRS = [(a, b) for a in range(VOCAB) for b in range(VOCAB)]
look_up_all = jax.jit(jax.vmap(TrigramTable.lookup, (None, 0)))


def rows_of(table):
    tokens, weights = (x.tolist() for x in look_up_all(table, jnp.asarray(PAIRS, jnp.int32)))
    return {pair: [(a, b) for a, b in zip(t, w) if a >= 0] for pair, t, w in zip(PAIRS, tokens, weights)}


def paths(tokens, parents, valid):
    """Token paths of a tree's valid nodes, in order."""
    found = []
    for token, parent, ok in zip(*(np.asarray(x).tolist() for x in (tokens, parents, valid))):
        found.append(((found[parent] if parent >= 0 else ()) + (token,)) if ok else None)
    return [path for path in found if path is not None]


@settings(deadline=None, max_examples=25)
@given(some_texts, st.sampled_from([1, 5, 12]), st.sampled_from([1, 3]), st.tuples(*[st.integers(0, 5)] * 2))
def test_best_first_is_exact(texts, num_nodes, max_depth, pair):
    table = build_trigram_table(texts, VOCAB)
    rows = rows_of(table)
    tokens, parents, valid = best_first_jitted(table, jnp.asarray(pair, jnp.int32), num_nodes, max_depth)
    check_tree(DraftTree(tokens[None], parents[None], valid[None], valid[None]), VOCAB, max_depth)

    everything = []

    def enumerate_(pair, path, score):
        if len(path) == max_depth:
            return
        for token, weight in rows[pair]:
            everything.append(((*path, token), score + math.log(weight)))
            enumerate_((pair[1], token), (*path, token), score + math.log(weight))

    enumerate_(pair, (), 0.0)
    scores = dict(everything)
    found = paths(tokens, parents, valid)
    assert len(found) == len(set(found)) == min(num_nodes, len(everything))
    best = sorted(scores.values(), reverse=True)[: len(found)]
    np.testing.assert_allclose([scores[path] for path in found], best, atol=1e-5)
    for size in range(1, len(found)):  # any prefix of the list is a tree
        assert all(path[:-1] in ((), *found[:size]) for path in found[:size])


def test_weights_above_one_are_normalised_for_the_score():
    """After updates a pair's weights may sum to more than one; a path's score must still not grow with its length."""
    table = TrigramTable.empty(64, VOCAB)
    for token, weight in ((1, 3.0), (2, 1.0)):
        table = table.add(jnp.asarray([0, 0]), jnp.int32(token), jnp.float32(weight))
    table = table.add(jnp.asarray([0, 1]), jnp.int32(3), jnp.float32(0.1))
    found = paths(*best_first_jitted(table, jnp.asarray([0, 0], jnp.int32), 3, 2))
    assert found == [(1,), (2,), (1, 3)], "0.75, 0.25, 0.75 * 0.1"


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=25), st.sampled_from([3, 8, 16]))
def test_updates_touch_the_window_alone(text, window):
    method = Aded(window=window, step=0.5, cap=1.2, capacity=64)
    buffer = jnp.asarray([*text, *[3] * (32 - len(text))], jnp.int32)
    empty = TrigramTable.empty(64, VOCAB)
    expected = Counter()
    for times in range(1, 4):  # three steps over the same window
        last = text[-window:]
        for a, b, c in zip(last, last[1:], last[2:]):
            expected[a, b, c] += 0.5
        empty = update_jitted(method, empty, buffer, jnp.int32(len(text)), jnp.bool_(True))
        found = {(a, b, t): w for (a, b), row in rows_of(empty).items() for t, w in row}
        if times == 1:
            assert found == pytest.approx({key: min(weight, 1.2) for key, weight in expected.items()})
        assert set(found) == set(expected)
        assert max(found.values(), default=0) <= 1.2 + 1e-6
    still = update_jitted(method, empty, buffer, jnp.int32(len(text)), jnp.bool_(False))
    np.testing.assert_array_equal(still.weights, empty.weights)


learn_jitted = jax.jit(Aded.learn, static_argnums=0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), st.sampled_from([3, 5, 16]))
def test_a_prompt_is_learnt_as_if_it_had_been_decoded(text, window):
    method = Aded(window=window, step=0.5, cap=2.2, capacity=64)
    tokens = jnp.asarray(text + [5] * (20 - len(text)), jnp.int32)  # padding that must not be learnt
    learnt = learn_jitted(method, TrigramTable.empty(64, VOCAB), tokens, jnp.int32(len(text)))
    expected = TrigramTable.empty(64, VOCAB)
    for length in range(1, len(text) + 1):
        expected = update_jitted(method, expected, tokens, jnp.int32(length), jnp.bool_(True))
    for pair, row in rows_of(learnt).items():
        assert dict(row) == pytest.approx(dict(rows_of(expected)[pair])), pair


def test_what_the_prompt_says_is_guessed_at_once():
    model = tiny_transformer(scale=4.0)
    prompt = Prompt.create([[1, 2, 3, 4, 5, 6, 7, 1, 2]], 3)
    learnt = Aded(num_nodes=4, capacity=64).init(model, prompt)
    assert learnt.adaptive.weights[0].max() == pytest.approx(0.04 * 7)
    for unlearnt in (Aded(num_nodes=4, capacity=64, learn_prompt=False), Aded(num_nodes=4, capacity=64, window=0)):
        assert unlearnt.init(model, prompt).adaptive.weights.max() == 0


@settings(deadline=None, max_examples=10)
@given(some_texts, st.sampled_from(puct.REWARDS), st.sampled_from([1.8, 32.0]), st.tuples(*[st.integers(0, 5)] * 2))
def test_tree_search_equals_plain_python(texts, reward, c1, pair):
    """Without roll-outs to draw (the tree is searched to full depth) both are deterministic."""
    table = build_trigram_table(texts, VOCAB)
    options = puct.Settings(simulations=40, c1=c1, reward=reward, num_drafts=5)
    # Depth 1: the expanded child lies at full depth, so that nothing is rolled out.
    nodes = simulate_jitted(table, jnp.asarray(pair, jnp.int32), jax.random.key(0), 1, options)
    root = simulate(rows_of(table), pair, 1, 40, c1, options.c2, reward)
    assert int(nodes.visits[0]) == root.visits == 40
    assert float(nodes.value[0]) == pytest.approx(root.value, rel=1e-4)
    children = {int(t): int(n) for t, n in zip(nodes.token[1:], nodes.visits[1:]) if t >= 0}
    assert children == {child.token: child.visits for child in root.children}
    if root.children:
        assert sum(children.values()) == 40


@settings(deadline=None, max_examples=10)
@given(some_texts, st.tuples(*[st.integers(0, 5)] * 2), st.integers(0, 99))
def test_tree_search_counts_are_sound_at_full_depth(texts, pair, seed):
    table = build_trigram_table(texts, VOCAB)
    options = puct.Settings(simulations=60, num_drafts=8)
    key = jax.random.key(seed)
    nodes = simulate_jitted(table, jnp.asarray(pair, jnp.int32), key, 3, options)
    visits, parents = np.asarray(nodes.visits), np.asarray(nodes.parent)
    real = np.flatnonzero(np.asarray(nodes.token) >= 0)
    assert visits[0] == 60
    assert (visits[real] <= visits[parents[real]]).all()
    assert (np.asarray(nodes.depth)[real] == np.asarray(nodes.depth)[parents[real]] + 1).all()
    if len(real):
        assert visits[real[parents[real] == 0]].sum() == 60
    tokens, up, valid = search_jitted(table, jnp.asarray(pair, jnp.int32), key, 16, 4, options)
    check_tree(DraftTree(tokens[None], up[None], valid[None], valid[None]), VOCAB, 4)
    found = paths(tokens, up, valid)
    rows = rows_of(table)
    for path in found:  # every edge of a draft is in the table
        whole = (*pair, *path)
        assert all(c in dict(rows[a, b]) for a, b, c in zip(whole, whole[1:], whole[2:]))
    again = search_jitted(table, jnp.asarray(pair, jnp.int32), key, 16, 4, options)
    np.testing.assert_array_equal(again[0], tokens)
    expected = most_visited(visits, parents, np.asarray(nodes.token), 8)
    assert found[: len(expected)] == expected


def test_a_table_with_one_successor_drafts_that_chain():
    text = [0, 1, 2, 3, 4, 5]
    table = build_trigram_table([text], VOCAB)
    for search in ("best_first", "puct"):
        if search == "puct":
            found = search_jitted(table, jnp.asarray([0, 1], jnp.int32), jax.random.key(0), 6, 4, puct.Settings())
        else:
            found = best_first_jitted(table, jnp.asarray([0, 1], jnp.int32), 6, 4)
        assert paths(*found) == [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]


def test_the_published_reward_is_almost_always_one():
    """It looks the last token up again, which no row of this table holds: W equals N. The intended one adds weights."""
    table = build_trigram_table([[0, 1, 2, 3, 4, 5, 0, 1, 2, 4]], VOCAB)
    for reward, equal in (("published", True), ("intended", False)):
        options = puct.Settings(simulations=30, reward=reward)
        nodes = simulate_jitted(table, jnp.asarray([0, 1], jnp.int32), jax.random.key(0), 3, options)
        assert np.allclose(nodes.value, nodes.visits) == equal


def test_drafting_adapts_to_a_text_that_repeats_itself():
    """A model that says one sentence over and over: tokens per call rise until every draft is right."""
    model, _ = markov_model(VOCAB, seed=0)
    cycle = jnp.full((VOCAB, VOCAB), -9.0).at[jnp.arange(VOCAB), (jnp.arange(VOCAB) + 1) % VOCAB].set(0.0)
    model = model.replace(params={"log_table": cycle})
    method = Speculative(Aded(num_nodes=4, max_depth=4, capacity=64, learn_prompt=False))
    prompt = Prompt.create([[0]], 60)
    state = start(method, model, prompt)
    emitted = []
    while not bool(state.done.all()):
        before = int(state.length[0])
        state = advance(method, model, state, 1)
        emitted.append(int(state.length[0]) - before)
    assert emitted[:5] == [1] * 5, "nothing is known until the sentence comes again"
    assert emitted[:-1] == sorted(emitted[:-1]), "never worse as the text repeats"
    assert emitted[-2] == 5, "depth + 1"
    learnt = method.drafter.learnt(state.drafter)
    again = model.accompanied(adaptive_table=learnt)
    carried = advance(method, again, start(method, again, prompt), UNLIMITED)
    assert int(method.result(carried).target_calls[0, 0]) < len(emitted), "what was learnt helps the next text"


@pytest.mark.slow
def test_an_adversarial_table_changes_no_text():
    model = tiny_transformer()
    prompt = Prompt.create([[3, 1, 4], [1]], 20)
    plain = decode(Autoregressive(), model, prompt)
    wrong = np.random.default_rng(0).integers(0, model.vocab_size, 4000).tolist()
    model = model.accompanied(trigram_table=build_trigram_table([wrong], model.vocab_size))
    drafted = decode(Speculative(Aded(num_nodes=8)), model, prompt)
    np.testing.assert_array_equal(plain.tokens[:, :, :20], drafted.tokens[:, :, :20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"max_depth": 0}, "max_depth must be at least 1, got 0"),
        ({"window": 2}, "window must be at least 3, a tri-gram, or 0 to learn nothing; got 2"),
        ({"step": 0.0}, "step must be positive and at most cap"),
        ({"cap": 0.01}, r"step must be positive and at most cap \(0.01\), got 0.04"),
        ({"search": "deep"}, "search must be one of best_first, puct, got 'deep'"),
        ({"capacity": 100}, "capacity must be a power of two"),
        ({"search": "puct", "max_depth": 1}, "max_depth must be at least 2 for search 'puct', got 1"),
    ],
)
def test_settings_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Aded(**arguments)
    with pytest.raises(ValueError, match="simulations must be at least 1, got 0"):
        puct.Settings(simulations=0)
    with pytest.raises(ValueError, match="reward must be one of intended, published, got 'x'"):
        puct.Settings(reward="x")
    with pytest.raises(ValueError, match="c1 must be >= 0 and c2 positive"):
        puct.Settings(c2=0.0)


def test_tables_of_another_tokenizer_are_refused():
    model = tiny_transformer().accompanied(trigram_table=build_trigram_table([[1, 2, 3]], 7))
    with pytest.raises(ValueError, match="'trigram_table' was built for a vocabulary of 7 tokens, the model has 41"):
        decode(Speculative(Aded()), model, Prompt.create([[1, 2]], 3))
    model = tiny_transformer().accompanied(adaptive_table=TrigramTable.empty(64, 41))
    with pytest.raises(ValueError, match="'adaptive_table' has 64 places, capacity is 4096"):
        decode(Speculative(Aded()), model, Prompt.create([[1, 2]], 3))
