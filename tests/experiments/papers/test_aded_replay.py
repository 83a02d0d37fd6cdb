"""Replays agree with decoding by the target; chains, carried tables and corpora are what they are said to be."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers.adaptive_drafting.arms import Arm, arms_of
from experiments.papers.adaptive_drafting.bench import prompt_table
from experiments.papers.adaptive_drafting.carrying import carry, orders_of, slope_interval
from experiments.papers.adaptive_drafting.corpora import foreign_texts, own_table
from experiments.papers.adaptive_drafting.greedy_chain import GreedyChain
from experiments.papers.adaptive_drafting.greedy_texts import Item, decode_texts, items_of, loaded_model, prompts_of
from experiments.papers.adaptive_drafting.real_decoding import decode_all, difference
from experiments.papers.adaptive_drafting.recorded_model import recorded_model
from experiments.papers.adaptive_drafting.replay import Room, counts_of, replay
from experiments.papers.progress import NoProgress
from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.decoding.speculative import Aded, ExactMatch, Speculative
from jaxdec.decoding.speculative.aded import TABLE
from jaxdec.decoding.speculative.trigram_table import TrigramTable, build_trigram_table
from jaxdec.decoding.speculative.verification import Verified, longest_path
from tests.tiny_models import tiny_transformer

pytestmark = pytest.mark.slow  # compiles for most of a minute

VOCAB = 41
PROMPTS = ((1, 2, 3), (4, 5), (6, 7, 8, 9, 6, 7))


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.fixture(scope="module")
def items(model):
    found = decode(Autoregressive(), model, Prompt.create(PROMPTS, 40))
    texts = np.asarray(found.tokens)[:, 0].tolist()
    return [Item("domains", f"x-{n}", "x", PROMPTS[n], tuple(text[:30]), tuple(text)) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def smoke_model(tmp_path_factory):
    return loaded_model("", tmp_path_factory.mktemp("model"))


def test_a_replay_counts_what_the_target_counts(model, items, smoke_model):
    method, room = Speculative(Aded(num_nodes=6, max_depth=3, capacity=64)), Room.of(items)
    tables = {item.id: {TABLE: own_table(items, item, VOCAB)} for item in items}
    lm = dataclasses.replace(smoke_model, model=model)  # whose end token is none of this vocabulary
    real = decode_all(method, lambda item: tables[item.id], lm, items, room, NoProgress())
    assert [entry.pop("difference") for entry in real] == [None] * 3
    replays = [counts_of(item, replay(method, item, room, VOCAB, tables[item.id])) for item in items]
    assert replays == real
    assert sum(sum(entry["accepted"]) for entry in real) > 0  # or nothing was tested
    assert all(entry["new_tokens"] == 30 for entry in real)


class AcceptAll(ExactMatch):
    """Wrong: takes every guess."""

    def verify(self, sampling, tree, depth, logits, keys, max_depth) -> Verified:
        """The longest path, right or not."""
        right = super().verify(sampling, tree, depth, logits, keys, max_depth)
        path, accepted = longest_path(tree, jnp.ones_like(tree.valid), max_depth)
        return right.replace(path=path, accepted=accepted)


def test_a_replay_that_gives_another_text_stops(items):
    method = Speculative(Aded(num_nodes=6, max_depth=3, capacity=64), verification=AcceptAll())
    table = build_trigram_table([[a, b, 0] for a in range(VOCAB) for b in range(VOCAB)], VOCAB)
    with pytest.raises(RuntimeError, match=r"domains, x-0: replay by Aded.* did not give the recorded text"):
        replay(method, items[0], Room.of(items), VOCAB, {TABLE: table})


def test_the_recording_says_the_recorded_text():
    model = recorded_model([[3, 1, 4, 1, 5], [2, 7, 1]], 9, 8)
    cache = model.init_cache(2, 8)
    logits, _, _ = model(jnp.zeros((2, 2), jnp.int32), jnp.asarray([[0, 3], [1, 0]]), cache)
    assert logits.argmax(-1).tolist() == [[1, 5], [1, 7]]
    narrow, _, _ = model(
        jnp.zeros((2, 2), jnp.int32), jnp.asarray([[0, 3], [1, 0]]), cache, None, jnp.ones((2, 1), int)
    )
    assert narrow.argmax(-1).tolist() == [[5], [7]]


def test_another_text_is_told_by_its_first_difference(model, items):
    item = items[0]
    assert difference(model, item, item.text) is None
    other = [*item.text[:5], (item.text[5] + 1) % VOCAB, *item.text[6:]]
    found = difference(model, item, other)
    assert found is not None
    assert found["position"] == 5
    logits, _, _ = model(jnp.asarray([[*item.prompt, *item.text[:5]]]), jnp.arange(8)[None], model.init_cache(1, 8))
    expected = logits[0, -1, item.text[5]] - logits[0, -1, other[5]]
    assert found["gap"] == pytest.approx(float(expected), abs=1e-4)
    assert found["gap"] > 0
    assert difference(model, item, item.text[:7]) == {"position": 7, "gap": None}


def test_a_chain_follows_the_heaviest_successors():
    table = build_trigram_table([[1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 6], [2, 3, 4], [3, 4, 7, 8], [3, 4, 7]], VOCAB)
    drafter = GreedyChain(num_nodes=6, max_depth=6, window=0, capacity=64)
    item = Item("domains", "x", "x", (1, 2), (3, 4, 7, 8, 9), ())
    model = recorded_model([item.prompt + item.text], VOCAB, 64).accompanied(**{TABLE: table})
    prompt = Prompt.create([(0, 1, 2)], 4)
    text = Autoregressive().init(model, prompt)
    text = text.replace(tokens=text.tokens.at[0, :3].set(jnp.asarray([0, 1, 2])), length=jnp.asarray([3]))
    tree, _ = drafter.propose(model, drafter.init(model, prompt), text)
    assert tree.tokens[0].tolist()[:4] == [3, 4, 7, 8]
    assert tree.valid[0].tolist() == [True] * 4 + [False] * 2
    assert tree.parents[0].tolist()[:4] == [-1, 0, 1, 2]


def test_a_carried_table_drafts_a_text_it_has_seen(items):
    room = Room.of(items)
    same = [items[0], dataclasses.replace(items[0], id="again")]
    arm = Arm("cold", Aded(num_nodes=6, max_depth=3, capacity=256), "none")
    found = carry(arm, same, room, VOCAB, lambda item: {}, lambda note: None)
    assert [entry["index"] for entry in found] == [0, 1]
    assert found[1]["target_calls"] < found[0]["target_calls"]
    afresh = counts_of(items[0], replay(arm.method, items[0], room, VOCAB, {}))
    assert found[0] == {**afresh, "index": 0}


def test_orders_are_permutations_that_begin_with_the_file():
    orders = orders_of(6, 4, seed=1)
    assert orders[:2] == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders == orders_of(6, 4, seed=1)


def test_the_slope_of_a_line_and_of_noise():
    orders = orders_of(12, 4, seed=0)
    places = {str(prompt): [order.index(prompt) for order in orders] for prompt in range(12)}
    line = {prompt: [(index, 1 + 0.25 * index) for index in own] for prompt, own in places.items()}
    assert slope_interval(line) == pytest.approx((0.25, 0.25, 0.25))
    rng = np.random.default_rng(0)
    noise = {prompt: [(index, float(rng.normal())) for index in own] for prompt, own in places.items()}
    found = slope_interval(noise)
    assert found.low < 0 < found.high
    assert found.low < found.mean < found.high
    rising = {prompt: [(index, value + 0.5 * index) for index, value in own] for prompt, own in noise.items()}
    assert slope_interval(rising).low > 0


def test_the_own_corpus_leaves_the_prompt_out():
    texts = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    items = [Item("families", str(n), "x", (0,), text[:1], text) for n, text in enumerate(texts)]
    table = own_table(items, items[1], VOCAB)
    held = {tuple(pair) for pair in np.asarray(table.pairs).tolist() if pair[0] >= 0}
    assert held == {(1, 2), (7, 8)}


def test_the_foreign_corpus_is_cut_to_size_and_reproducible():
    texts = foreign_texts(40_000)
    assert sum(map(len, texts)) == 40_000
    assert texts == foreign_texts(40_000)
    assert any("import " in text for text in texts)
    assert sum(map(len, foreign_texts(100_000_000))) < 20_000_000  # what there is


def test_prompts_of_every_group():
    families = prompts_of("families", 8)
    assert {entry["group"] for entry in families} == {"chat", "code", "math", "summarise", "extract", "edit"}
    assert len(families) == 48
    domains = prompts_of("domains", 3)
    assert [entry["id"] for entry in domains] == ["code-01", "code-02", "code-03", "chat-01", "chat-02", "chat-03"]


def test_greedy_texts_keep_their_prompts(smoke_model):
    lm = smoke_model
    config = {"per_group": {"families": 1, "domains": 1}, "long_text": 9, "batch_size": 3}
    texts = decode_texts(config, lm, NoProgress())
    assert [(entry["set"], entry["id"]) for entry in texts[-2:]] == [("domains", "code-01"), ("domains", "chat-01")]
    for entry in (texts[0], texts[-1]):  # of different batches
        alone = decode(Autoregressive(), lm.model, Prompt.create([entry["prompt"]], 9))
        assert np.asarray(alone.tokens)[0, 0, :9].tolist() == entry["text"]
    item = items_of(texts, 4)[0]
    assert (item.text, item.long_text) == (tuple(texts[0]["text"][:4]), tuple(texts[0]["text"]))


def test_a_prompt_is_learnt_once_per_occurrence():
    item = Item("families", "x", "x", (1, 2, 3, 1, 2, 3, 1, 2, 9), (4,), (4,))
    table = prompt_table(Aded(step=0.5, capacity=64), item, VOCAB, 16)
    assert isinstance(table, TrigramTable)
    tokens, weights = (x.tolist() for x in table.lookup(jnp.asarray([1, 2])))
    assert {t: w for t, w in zip(tokens, weights) if w} == pytest.approx({3: 1.0, 9: 0.5})


def test_arms_differ_in_name_and_in_kind():
    arms = arms_of({"nodes": (8, 16), "constants": (32.0, 1.814), "designs": True})
    assert len({arm.name for arm in arms}) == len({arm.slug for arm in arms}) == len(arms)
    assert len({(arm.drafter, arm.corpus, arm.knows_prompt) for arm in arms}) == len(arms)
    by_name = {arm.name: arm.drafter for arm in arms}
    static, search = by_name["static own"], by_name["PUCT published c1=1.814, 8 nodes"]
    assert isinstance(static, Aded)
    assert isinstance(search, Aded)
    assert (static.window, search.settings.reward, search.settings.c1) == (0, "published", 1.814)
    assert [by_name[f"chain, {n} nodes"].max_depth for n in (4, 8, 16)] == [4, 8, 16]
