"""The replica of ActQKV: texts, ranks and densities by hand, the replay against the cache, and every verdict both ways."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.papers import actqkv
from experiments.papers.block_retrieval import measurements, recorded
from experiments.papers.block_retrieval.figures import draw_figures
from experiments.papers.block_retrieval.results import EVERYTHING, NO_BLOCKS, OURS, Results
from experiments.papers.block_retrieval.tables import tables
from experiments.papers.block_retrieval.texts import COLOURS, PLACES, haystack
from experiments.papers.block_retrieval.verdicts import all_claims
from experiments.papers.command import config_of, run_command
from jaxdec.attention.sparse.actqkv import PROBES, ActQKV, cosine_scores, information_density
from jaxdec.models.rope import Rotation
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

RULE = ActQKV(block_size=8, sinks=4, local=64, top_blocks=2, window=64, warmup=64, min_windows=1)
encode, decode = byte_tokenizer().encode, byte_tokenizer().decode


def test_facts_are_in_the_text_and_questions_in_their_windows():
    text = haystack(encode, 500, 64, 3, seed=1, first=4, behind=72)
    assert len(text.tokens) == 500
    told = decode(text.tokens)
    for fact in range(3):
        for place in PLACES:
            window = text.windows[place][fact]
            assert len(window) == 64
            question = decode(window[text.asked_at(place, fact)])
            assert question.startswith(" The dog named ")
            assert question in told
            start = told.index(question)
            assert 4 <= start < text.facts[fact] == start + len(question) < 500 - 72
            assert text.tokens[text.facts[fact]] == text.answers[fact]
            answer = next(colour for colour in COLOURS if told[text.facts[fact] :].startswith(f" {colour}."))
        assert text.windows["end"][fact][-text.question[fact] :] == encode(question)
        assert answer in told
    assert text.windows["middle"][0][-5:] != text.windows["end"][0][-5:]
    assert haystack(encode, 500, 64, 3, seed=2, first=4, behind=72).tokens != text.tokens
    with pytest.raises(ValueError, match="tokens must leave room for 3 facts"):
        haystack(encode, 100, 64, 3, seed=1, first=4, behind=72)
    with pytest.raises(ValueError, match="window must be longer than a question"):
        haystack(encode, 500, 20, 3, seed=1, first=4, behind=72)


def test_ranks_and_shares_by_hand():
    scores = {"mean": np.asarray([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]])}
    shares = np.asarray([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    found = measurements.ranked(scores, shares, 2, [1, 2, 9])
    assert found["rank"] == {"mean": [1, 1]}
    assert found["gold"] == [0.3, 0.3]
    assert found["covered"]["mean"] == {
        "1": pytest.approx((0.5 + 0.2) / 2),
        "2": pytest.approx((0.8 + 0.5) / 2),
        "9": 1,
    }
    assert found["covered"]["attention itself"]["1"] == pytest.approx(0.5)


def test_densities_are_the_methods():
    scores = np.random.default_rng(0).uniform(-1, 1, (3, 7))
    for temperature in (1.0, 0.1):
        wanted = information_density(jnp.asarray(scores / temperature, jnp.float32), jnp.full(3, 7))
        np.testing.assert_allclose(measurements.density(scores, temperature), wanted, rtol=1e-5)


def test_shared_budgets_are_counted_as_equal_ones():
    rng = np.random.default_rng(1)
    one = {probe: rng.uniform(-1, 1, (5, 12)) for probe in PROBES}
    one["activation"][0] = np.linspace(-1, 1, 12)  # a layer that is sure: few blocks
    one["activation"][1:] = rng.uniform(0, 0.01, (4, 12))
    questions = [{"place": "middle", "rank": {"activation": [3, 3, 3, 3, 3]}}] * 2
    asked = recorded.Asked([one] * 3, {"middle": [one, one], "end": []})
    for row in measurements.dynamic(asked, questions, RULE, 4, 0.05):
        assert sum(row["blocks"]) == 20
        assert row["blocks"][0] < 4 <= min(row["blocks"][1:])
        assert row["equal"] == 1.0
        assert row["dynamic"] == pytest.approx(np.mean(np.asarray(row["blocks"]) > 3))
    equal = dataclasses.replace(RULE, min_windows=99)
    assert all(row["blocks"] == [4] * 5 for row in measurements.dynamic(asked, questions, equal, 4, 0.05))


def test_block_attention_is_that_of_the_softmax():
    rng = np.random.default_rng(2)
    queries, keys = rng.normal(size=(2, 3, 4, 8)), rng.normal(size=(2, 90, 2, 8))
    shares = measurements.block_attention(RULE, queries, keys)
    assert shares.shape == (2, 2)
    received = np.zeros(90)
    for q in range(3):
        for head in range(4):
            scores = keys[1, :, head // 2] @ queries[1, q, head] / 8**0.5
            received += np.exp(scores) / np.exp(scores).sum()
    blocks = received[4:20].reshape(2, 8).sum(axis=1)
    np.testing.assert_allclose(shares[1], blocks / blocks.sum())


@pytest.mark.slow
def test_the_replay_scores_what_the_cache_scores():
    """With all blocks read, whole passes have the queries and keys of dense ones."""
    model = tiny_transformer(scale=4.0, vocab_size=NUM_TOKENS)
    text = haystack(encode, 320, 64, 1, seed=1, first=4, behind=72)
    recording = recorded.record(model, text, 64)
    asked = recorded.replay(RULE, recording, Rotation(model.module.config))
    every = dataclasses.replace(RULE, top_blocks=60, min_blocks=60)
    cache = measurements.retrieval_cache(model, every, 384)
    for start in range(0, 320, 64):
        tokens = jnp.asarray([text.tokens[start : start + 64]], jnp.int32)
        cache = model(tokens, start + jnp.arange(64)[None], cache).cache.commit(None, jnp.asarray([64], jnp.int32))
    after = model(jnp.asarray([text.windows["end"][0]], jnp.int32), 320 + jnp.arange(64)[None], cache).cache
    scores = asked.questions["end"][0]["activation"]
    assert scores.shape == (2, (320 - 4 - 64) // 8)
    alone, span = asked.questions["end"][0][recorded.QUESTION], recording.spans["end"][0]
    mean = dataclasses.replace(RULE, probe="mean")
    for layer in range(2):
        asking = after._asking(after.windows[layer].queries, 320 + jnp.arange(64)[None])[:, span]
        probe = mean.probe_query(after.statistics[layer], asking, jnp.ones((1, asking.shape[1]), bool))
        wanted = cosine_scores(after.representatives[layer], probe, RULE.num_blocks(after.length))
        np.testing.assert_allclose(alone[layer], wanted[0, : alone.shape[1]], atol=1e-4)
        live = after.scores(layer, after.windows[layer].queries)
        np.testing.assert_allclose(live[0, : scores.shape[1]], scores[layer], atol=1e-4)


def made_up(changes: dict) -> Results:
    """Results under which every claim holds, with some of the numbers changed."""
    values = {
        "difference": 1e-5, "middle mean": 5, "end mean": 5, "middle max_norm": 5, "end max_norm": 5, "middle last": 5,
        "end last": 5, "covered": 0.1, "between": 0.1, "shared 1": 0.1, "shared 0.05": 0.1, "right": 1.0, "all right": 1.0,
        "gain": 1.0,
    } | changes  # fmt: skip
    rng = np.random.default_rng(0)

    def question(place):
        probes = (*PROBES, recorded.QUESTION)
        ranks = {probe: [values.get(f"{place} {probe}", 5)] * 2 for probe in probes} | {"activation": [0, 3]}
        share = {probe: 0.5 - (values["covered"] if probe != "activation" else 0) for probe in probes}
        covered = {probe: {"2": part, "4": part} for probe, part in {**share, "attention itself": 0.8}.items()}
        return {"place": place, "rank": ranks, "gold": [0.3, 0.1], "covered": covered}

    def shared(temperature):
        row = {"place": "end", "equal": 0.5, "dynamic": 0.5 + values[f"shared {temperature:g}"], "blocks": [1, 3]}
        return [{"temperature": temperature, "budget": k, **row} for k in (2, 4) for _ in range(4)]

    text = {
        "blocks": 20,
        "questions": [question(place) for place in PLACES for _ in range(4)],
        "densities": {t: (rng.normal(size=(3, 2)) * 0.01 + [0, values["between"]]).tolist() for t in ("1.0", "0.05")},
        "dynamic": [*shared(1.0), *shared(0.05)],
    }

    def answer(right, log_prob, read):
        return [{"right": [right] * 8, "log_prob": [log_prob] * 8, "surprisal": [1.0] * 4, "read": read}]

    answers = {
        EVERYTHING: answer(values["all right"], -1.0, 100),
        NO_BLOCKS: answer(0.0, -1.0 - values["gain"], 20),
        OURS: answer(values["right"], -1.0, 30),
    }
    exact = {"difference": values["difference"], "blocks": 9}
    rule = dataclasses.replace(RULE, top_blocks=4)
    return Results(rule, [2, 4], [text], answers, exact)


CLAIMS = 13


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"difference": 2e-3}, {0: False}),
        ({"middle mean": 0}, {1: False}),
        ({"middle mean": 3}, {1: None}),
        ({"end mean": 0}, {2: False}),
        ({"middle max_norm": 0}, {3: False}),
        ({"end max_norm": 0}, {4: False}),
        ({"middle last": 0}, {5: False}),
        ({"end last": 0}, {6: False}),
        ({"covered": -0.1}, {7: False}),
        ({"covered": 0.0}, {7: None}),
        ({"between": 0.001}, {8: False}),
        ({"shared 1": 0.0}, {9: None}),
        ({"shared 0.05": -0.1}, {10: False}),
        ({"right": 0.0}, {11: False}),
        ({"all right": 0.0}, {11: None}),
        ({"gain": -1.0}, {12: False}),
    ],
)
def test_every_claim_can_fail(changes, others):
    found = all_claims(made_up(changes))
    assert [entry["reproduced"] for entry in found] == [{**others}.get(index, True) for index in range(CLAIMS)]
    assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_tables_figures_and_notes(tmp_path):
    results = made_up({})
    shown = tables(results)
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    assert shown[0]["rows"][-1][2:] == [0.1, 0.2], "two and four of twenty by chance"
    assert shown[0]["rows"][0][2:] == [0.5, 1.0]
    assert shown[1]["rows"][0][2:] == [pytest.approx(0.75), 1.0]
    assert shown[4]["rows"][2][5] == pytest.approx(0.3)
    for folder in ("one", "two"):
        drawn = [figure["file"] for figure in draw_figures(results, tmp_path / folder)]
        assert drawn == ["recall.svg", "attention.svg", "layers.svg"]
    assert (tmp_path / "one" / "layers.svg").read_text() == (tmp_path / "two" / "layers.svg").read_text()
    assert "after 1 windows" in " ".join(actqkv.notes(results))


def test_arms_and_config():
    config = config_of("actqkv", smoke=False, path=None)
    arms = actqkv.arms(config)
    assert list(arms)[:3] == [EVERYTHING, NO_BLOCKS, OURS]
    assert len(arms) == 6
    arms = actqkv.arms({**config, "answers": {**config["answers"], "arms": 99}})
    assert [arm.top_blocks for arm in arms.values() if arm is not None] == [0, *[config["rule"]["top_blocks"]] * 6]
    assert {arm.probe for arm in arms.values() if arm is not None} == set(PROBES)
    assert len(actqkv.arms(config_of("actqkv", smoke=True, path=None))) == 3


@pytest.mark.slow
def test_the_smoke_run_judges_nothing(tmp_path):
    assert run_command(["reproduce", "--paper=actqkv", "--smoke", f"--out={tmp_path}"], "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["claims"]) == CLAIMS
    assert all(claim["reproduced"] is None for claim in metrics["claims"])
    assert (tmp_path / "report.md").read_text().count("![") == 3
