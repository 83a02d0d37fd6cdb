"""The replica of ZipVL: counts by hand, and every verdict both ways."""

import json

import numpy as np
import pytest

from experiments.papers.command import run_command
from experiments.papers.progress import NoProgress
from experiments.papers.token_sparsity.arms import DENSE, HALF, KEYS, attention_arms, cache_arms, dynamic, fixed_arm
from experiments.papers.token_sparsity.measurements import (
    bytes_part,
    cache_texts,
    important,
    needle_texts,
    ratios_part,
    scores_part,
)
from experiments.papers.token_sparsity.report import draw_figures, tables
from experiments.papers.token_sparsity.verdicts import FIXED, Results, all_claims
from tests.tiny_models import TINY, tiny_transformer
from tests.tiny_text import byte_tokenizer

THRESHOLDS = (0.9, 0.95, 0.99)
ARMS = [*attention_arms(THRESHOLDS, 4, 4), FIXED]
CACHES = [DENSE, *cache_arms(0.95, 4, 4, 8)]
RNG = np.random.default_rng(0)
TEXTS = [(RNG.integers(0, 41, 40).tolist(), RNG.integers(0, 41, 3).tolist()) for _ in range(2)]


def test_ratios_come_from_the_cells_that_were_skipped():
    for count, length in ((1, 7), (3, 7), (7, 7)):
        assert important(1 - count * (count + 1) / (length * (length + 1)), length) == pytest.approx(count / length)


def test_needles_end_in_their_answer():
    texts = needle_texts(byte_tokenizer().encode, 200, (0, 1), 3)
    assert len(texts) == 6
    for prompt, answer in texts:
        said = byte_tokenizer().decode([*prompt, *answer])
        question = said[said.rindex("The dog named") :]
        assert said.count(question.strip()) == 2  # as a fact, and as the question with its answer


def test_texts_for_caches_are_three_kinds_of_windows():
    texts = cache_texts(byte_tokenizer().encode, 300, 20, 2)
    assert [(len(prompt), len(after)) for prompt, after in texts] == [(300, 20)] * 6
    said = [byte_tokenizer().decode([*prompt, *after]) for prompt, after in texts]
    assert "heap" in said[4]
    assert len(set(said)) == 6


@pytest.mark.slow
def test_parts_measure_what_the_rules_do():
    model = tiny_transformer()
    arms = {DENSE: {}, "all": fixed_arm(1.0, 4, 4), "half": fixed_arm(0.5, 4, 4)}
    ratios = ratios_part(model, TEXTS, arms, 0, NoProgress(), "ratios")
    assert set(ratios) == {"all", "half"}
    np.testing.assert_allclose(ratios["half"]["ratio"], 0.5, atol=1e-3)
    np.testing.assert_allclose(ratios["all"]["skipped"], 0, atol=1e-6)
    scores = scores_part(model, TEXTS, arms, 0, NoProgress(), "texts")
    np.testing.assert_allclose(scores["all"]["surprisal"], scores[DENSE]["surprisal"], atol=1e-3)
    assert np.abs(np.subtract(scores["half"]["surprisal"], scores[DENSE]["surprisal"])).min() > 1e-3
    held = bytes_part(model, TEXTS[0], {DENSE: {}, **cache_arms(0.95, 4, 4, 8)}, 0)
    assert held[DENSE] == 2 * TINY.num_layers * TINY.num_kv_heads * TINY.head_dim * 2 * 128
    assert held["int2"] < held["int4"] < held["int8"]
    assert held["int4/int2, half"] <= held["int4/int2, dynamic"]
    longer = bytes_part(model, (TEXTS[0][0] * 10, TEXTS[0][1]), cache_arms(0.95, 4, 4, 8), 0)
    assert longer["int4/int2, half"] < longer["int4/int2, dynamic"], "both kinds have room for their share alone"


def made_up(changes):
    own = {"layers": (0.3, 0.6), "filler": 0.35, FIXED: 0.2, "by attention received": 0.1, "last probes alone": 0.1,
           "drawn probes alone": 0.1, "middle": 0.02, "half": 0.005, "bytes": 200, "times": (1.0, 2.0), **changes}  # fmt: skip
    middle = dynamic(0.95)
    loss = {arm: own.get(arm, 0.05) for arm in ARMS} | {middle: own["middle"], DENSE: 0.0}
    loss |= {arm: own["middle"] + own[arm] for arm in ARMS[4:]}
    texts = {arm: {"surprisal": [2 + loss[arm], 3 + loss[arm]], "best": [True, False]} for arm in ARMS}
    cached = {arm: {"surprisal": [2.01, 3.01], "best": [True, False]} for arm in CACHES}
    one, other = np.broadcast_to(own["half"], 2)
    cached[DENSE] = {"surprisal": [2.5, 4.0], "best": [True, True]}  # of other texts than those by rules for prompts
    cached[HALF] = {"surprisal": [2.5 + one, 4.0 + other], "best": [True, True]}
    one, other = np.broadcast_to(own.get("keys", 0.005), 2)
    cached[KEYS] = {"surprisal": [2.5 + one, 4.0 + other], "best": [True, True]}

    def ratios(value):
        return {arm: {"ratio": [value, value], "skipped": [[0.5, 0.5]] * 2} for arm in ARMS if arm != DENSE}

    slow, fast = own["times"]
    times = {DENSE: [10.0], **{dynamic(threshold): [10.0] for threshold in THRESHOLDS}}
    return Results(
        thresholds=THRESHOLDS,
        texts=texts,
        needles=texts,
        ratios={"texts": ratios(list(own["layers"])), "needles": ratios([own["filler"]] * 2)},
        caches=cached,
        nbytes={**dict.fromkeys(CACHES, 400), DENSE: 500, HALF: own["bytes"]},
        prefill=[
            {"length": length, "foreign_load": 0.0, "milliseconds": {**times, middle: [10.0 / gain]}}
            for length, gain in ((64, slow), (128, fast))
        ],
    )


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"layers": (0.45, 0.5)}, {0: False}),
        ({"filler": 0.6}, {1: False}),
        ({FIXED: -0.01}, {2: False}),
        ({"by attention received": -0.01}, {3: False}),
        ({"drawn probes alone": -0.01}, {4: False}),
        ({"middle": 0.1}, {5: False}),
        ({"half": 0.02}, {6: False}),
        ({"half": (-0.01, 0.02)}, {6: None}),
        ({"keys": 0.02}, {7: False}),
        ({"keys": (-0.01, 0.02)}, {7: None}),
        ({"bytes": 260}, {8: False}),
        ({"times": (1.2, 1.1)}, {9: False}),
        ({"times": (0.5, 0.9)}, {9: False}),
    ],
)
def test_every_claim_can_fail(changes, others):
    found = all_claims(made_up(changes))
    assert [entry["reproduced"] for entry in found] == [others.get(index, True) for index in range(10)]
    assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_tables_and_figures(tmp_path):
    results = made_up({})
    shown = tables(results)
    assert [len(table["rows"]) for table in shown] == [len(ARMS), len(CACHES), 2]
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    assert [figure["file"] for figure in draw_figures(results, tmp_path)] == ["ratios.svg", "caches.svg"]
    assert "threshold" in (tmp_path / "ratios.svg").read_text()


@pytest.mark.slow
def test_the_smoke_run_judges_nothing(tmp_path):
    assert run_command(["reproduce", "--paper=zipvl", "--smoke", f"--out={tmp_path}"], "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [claim["reproduced"] for claim in metrics["claims"]] == [None] * 10
    assert (tmp_path / "report.md").read_text().count("![") == 2
