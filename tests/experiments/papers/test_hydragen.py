"""The replica of Hydragen: caches and counts by hand, times by a clock of our own, texts, and every verdict both ways."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.papers import hydragen
from experiments.papers.command import run_command
from experiments.papers.progress import NoProgress
from experiments.papers.shared_prefixes import decoding, texts, timing
from experiments.papers.shared_prefixes.caches import copied, formula, random_shared, tokens_held
from experiments.papers.shared_prefixes.counting import count
from experiments.papers.shared_prefixes.figures import draw_figures
from experiments.papers.shared_prefixes.measurements import attention_shapes, shape_of
from experiments.papers.shared_prefixes.results import Results, bound, counted_case
from experiments.papers.shared_prefixes.tables import tables
from experiments.papers.shared_prefixes.timing import in_turns, speed_ups
from experiments.papers.shared_prefixes.verdicts import all_claims
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.loading import LoadedModel
from jaxdec.shared_prompts import share
from tests.tiny_models import TINY, tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

SIZES = (TINY.num_heads, TINY.num_kv_heads, TINY.head_dim)
encode = byte_tokenizer().encode


def test_both_layouts_hold_the_same():
    shared = random_shared((2, 2, 8), batch=3, prefix=5, suffix=4)
    ours, theirs = copied(shared, 0), shared.unshared()
    assert ours.length.tolist() == theirs.length.tolist() == [9] * 3
    for mine, other in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True):
        np.testing.assert_array_equal(mine[:, :, :9], other[:, :, :9])
    assert copied(shared, 300).capacity == 384  # whole blocks
    assert (tokens_held(shared), tokens_held(ours)) == (5 + 3 * 4, 3 * 9)
    assert formula(3, 5, 4) == 17 / 27


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 5))
def test_counted_bytes_are_those_of_the_formula(batch, prefix, suffix):
    found = counted_case((batch, prefix, suffix), (4, 2, 8), count(batch, prefix, suffix, (4, 2, 8)))
    assert (found["copied"], found["shared"]) == (found["formula"]["copied"], found["formula"]["shared"])
    assert found["copied"] == 2 * 2 * 8 * 4 * batch * (prefix + suffix)
    assert found["difference"] < 1e-12
    assert found["copied"] / found["shared"] == pytest.approx(bound(found))


def test_times_are_per_pass_and_in_turns():
    now, calls = [0.0], []

    def side(name, cost):
        def call(passes):
            calls.append((name, passes))
            now[0] += cost * passes

        return call

    found = in_turns({"slow": side("slow", 0.4), "quick": side("quick", 0.1)}, 2, 1.0, lambda: now[0])
    assert found["milliseconds"] == {
        "slow": [pytest.approx(400)] * 2,
        "quick": [pytest.approx(100)] * 2,
    }
    assert calls[4:] == [("slow", 2), ("quick", 10), ("quick", 10), ("slow", 2)]
    assert speed_ups({"milliseconds": {"copied": [3.0, 8.0], "shared": [1.0, 2.0]}}) == [3.0, 4.0]


@pytest.mark.slow
def test_attention_and_steps_agree_in_both_layouts(monkeypatch):
    lengths = {}

    def run_once(sides, rounds, seconds):
        for name, call in sides.items():
            call(1)
            if hasattr(call, "box"):
                lengths[name] = call.box[0].length.tolist()
        return {"milliseconds": {"copied": [6.0], "shared": [2.0]}, "foreign_load": None}

    monkeypatch.setattr(timing, "in_turns", run_once)
    (case,) = timing.attention_part([(3, 20, 4)], SIZES, 2, 1, 0.0, NoProgress())
    assert 0 < case["difference"] < 1e-5
    assert case["milliseconds"] == {"copied": [3.0], "shared": [1.0]}  # of one layer
    (case,) = timing.step_part(tiny_transformer(), [2], [16], 4, 1, 0.0, NoProgress())
    assert (case["batch"], case["prefix"], case["suffix"]) == (2, 16, 4)
    assert 0 < case["difference"] < 1e-3
    assert case["held"] == {"copied": 2 * 20, "shared": 16 + 2 * 4}
    assert case["formula"] == 24 / 40
    assert case["milliseconds"] == {"copied": [6.0], "shared": [2.0]}
    assert lengths == {"copied": [20, 20], "shared": [20, 20], "none": [4, 4]}


@pytest.mark.slow
def test_arms_decode_the_same_texts_and_are_timed_apart():
    model = tiny_transformer(scale=4.0, vocab_size=NUM_TOKENS)
    prompts = texts.continuations(encode, 192, 3)
    assert {tuple(prompt[:192]) for prompt in prompts} == {tuple(prompts[0][:192])}
    assert len(set(map(tuple, prompts))) == 3
    prompts = [[*prompt, 70 + row] for row, prompt in enumerate(prompts)]  # then texts differ
    arms = decoding.rate_arms(prompts, 5, 192)
    ticks = itertools.count()
    found = decoding.time_arms(arms, Autoregressive(), model, 2, NoProgress(), lambda: float(next(ticks)))["arms"]
    assert found["alone"]["texts"] == found["copied"]["texts"] == found["shared"]["texts"]
    assert all(arm["prefill"] == arm["decode"] == [1.0, 1.0] for arm in found.values())
    assert found["shared"]["bytes"] < min(found["copied"]["bytes"], found["alone"]["bytes"])
    assert decoding.rates({"arms": found}, "shared", prefill=True) == [3 * 5 / 2] * 2
    assert decoding.rates({"arms": found}, "shared", prefill=False) == [3 * 4 / 1] * 2
    plain = found["alone"]["texts"]
    assert [plain[2], plain[0], plain[1]] != plain
    turned = dataclasses.replace(arms["alone"], row_of=np.array([2, 0, 1]))
    assert decoding.run_arm(turned, Autoregressive(), model, lambda: 0.0)["texts"] == [plain[2], plain[0], plain[1]]
    wrong = [*plain[:2], [*plain[2][:3], (plain[2][3] + 1) % 40, plain[2][4]]]
    same = decoding.same_texts(model, prompts, plain, wrong)
    assert (same["texts"], same["equal"], same["ties"], len(same["gaps"])) == (3, 2, 0, 1)


def test_needles_are_in_the_document():
    prompts, answers = texts.needles(encode, 900, seed=3)
    decode = byte_tokenizer().decode
    told = [decode(prompt) for prompt in prompts]
    for dog, answer, text in zip(texts.DOGS, answers, told, strict=True):
        assert f"The dog named {dog} has fur that is {answer}. " in text
        assert text.endswith(f"The dog named {dog} has fur that is")
    assert sorted(answers) == sorted(texts.COLOURS)
    _, row_of = share(Prompt.create(prompts, 2), prompts, True)
    assert sorted(row_of) == list(range(8))
    blind = decode(texts.needles(encode, 900, seed=3, facts=False)[0][0])
    assert "fur that is black." not in blind
    assert texts.needles(encode, 900, seed=4)[1] != answers
    assert texts.answered([" black dog", "white", " gold"], ["black", "brown", "golden"]) == 1


def test_trees_fit_their_prompts():
    prompts, trees = texts.example_tree(encode, 50, 30, 2, 3)
    assert [len(prompt) for prompt in prompts] == [80] * 6
    assert [prompts.index(prompt) for prompt in prompts] == [0, 0, 0, 3, 3, 3]
    arms = decoding.tree_arms(prompts, trees, 4, seed=0)
    kept = {
        name: [length.tolist() for length in arm.prompt.sharing.length] if arm.prompt.sharing else None
        for name, arm in arms.items()
    }
    assert kept == {"none": None, "root": [[50]], "leaves": [[79, 79]], "two levels": [[50], [29, 29]]}
    assert arms["two levels"].prompt.sharing.spans == (((0, 6),), ((0, 3), (3, 6)))


def test_shapes_of_a_model_and_of_the_grid():
    lm = LoadedModel(tiny_transformer(), byte_tokenizer(), "random")
    assert shape_of(lm) == {"layers": 2, "sizes": [4, 2, 8]}
    own = {"batches": (1, 2), "prefixes": (8, 16), "suffix": 4, "suffixes": (0, 4, 9)}
    shapes = attention_shapes(own)
    assert shapes == [(1, 8, 4), (1, 16, 4), (2, 8, 4), (2, 16, 4), (2, 16, 0), (2, 16, 9)]


def made_up(changes: dict) -> Results:
    """Results under which every claim but that of 16 times holds, with some of the numbers changed."""
    values = {
        "difference": 1e-6, "held": 0, "read": 0, "flat": 1.0, "one": 1.0, "b=4": 3.0, "P=64": 3.0, "long suffix": 1.1,
        "none": 0.9, "tie": 1, "equal": 3, "alone prefill": 9.0, "alone": 4.0, "copied prefill": 3.5, "copied": 4.0,
        "two": 1.0, "two bytes": 1, "right": 7, "blind": 1, "gain": 1.0,
    } | changes  # fmt: skip

    def timed(batch, prefix, suffix, **milliseconds):
        case = {"batch": batch, "prefix": prefix, "suffix": suffix, "difference": values["difference"]}
        return {**case, "foreign_load": 0.5, "milliseconds": {name: [ms] * 3 for name, ms in milliseconds.items()}}

    def gain(batch, prefix):
        if batch == 1:
            return 1.0
        return values["gain"] * (1.5 if (batch, prefix) == (2, 32) else values["b=4" if batch == 4 else "P=64"] - 1)

    attention = [timed(b, p, 4, copied=gain(b, p), shared=1.0) for b in (1, 2, 4) for p in (32, 64)]
    attention[4] = timed(4, 32, 4, copied=values["gain"] * 1.9, shared=1.0)
    attention += [timed(4, 64, 0, copied=values["gain"] * 2.5, shared=1.0)]
    attention += [timed(4, 64, 99, copied=values["gain"] * values["long suffix"], shared=1.0)]
    steps = []
    for batch, prefix in itertools.product((1, 4), (32, 64)):
        shared = values["flat"] if (batch, prefix) == (4, 64) else 1.0
        whole = values["one"] if batch == 1 else 2.0 + prefix / 32
        case = timed(batch, prefix, 4, copied=whole, shared=shared, none=values["none"])
        whole_held, part_held = batch * (prefix + 4), prefix + batch * 4 + values["held"]
        held = {"held": {"copied": whole_held, "shared": part_held}}
        steps.append({**case, **held, "formula": formula(batch, prefix, 4)})

    def arm(prefill, decode, size=1):
        return {"prefill": [prefill] * 2, "decode": [decode] * 2, "bytes": size, "texts": [[1, 2, 3]] * 2}

    same = {"texts": 4, "equal": values["equal"], "ties": values["tie"], "gaps": [1e-6]}
    rates = {
        "arms": {
            "alone": arm(values["alone prefill"] * 2 - values["alone"], values["alone"]),
            "copied": arm(values["copied prefill"] * 2 - values["copied"], values["copied"]),
            "shared": arm(1.0, 1.0),
        },
        "foreign_load": None,
        "same": {"copied": same, "shared": same},
    }
    tree = {
        "arms": {
            "none": arm(3.0, 3.0, 9),
            "root": arm(1.5, 1.5, 5),
            "leaves": arm(1.0, 1.5, 4),
            "two levels": arm(1.0, values["two"], values["two bytes"]),
        },
        "foreign_load": 0.2,
    }
    counts = [{"formula": {"copied": 8, "shared": 4}, "copied": 8, "shared": 4 + values["read"], "difference": 1e-15}]
    right = {"plain": 7, "shared": values["right"], "without facts": values["blind"]}
    needle = {"questions": 8, "tokens": 90, "right": right, "same": same}
    return Results(2, counts, attention, steps, {(4, 64): rates}, [needle], tree)


CLAIMS = (
    "attention merged",
    "greedy texts",
    "tokens kept",
    "a reference that counts",
    "attention alone: the speed-up rises",
    "attention alone: more than 16",
    "attention alone: the speed-up falls",
    "whole steps: with one row",
    "whole steps: a prefix 2 times as long",
    "whole steps: shared reaches 84%",
    "whole texts, prefill counted: at best 3 times the tokens per second of every row prefilled",
    "whole texts, steps only: at best 3 times the tokens per second of every row prefilled",
    "whole texts, prefill counted: at best 3 times the tokens per second of prefilled once",
    "whole texts, steps only: at best 3 times the tokens per second of prefilled once",
    "tree: a second level takes less time than one (the examples",
    "tree: a second level takes less time than one (each problem",
    "tree: two levels keep less",
    "needles",
)


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        ({}, {}),
        ({"difference": 2e-5}, {0: False}),
        ({"equal": 2}, {1: False}),
        ({"held": 1}, {2: False}),
        ({"read": 1}, {3: False}),
        ({"b=4": 2.4}, {4: False}),
        ({"P=64": 2.2}, {4: False}),
        ({"gain": 9.0}, {5: True}),
        ({"long suffix": 2.6}, {6: False}),
        ({"one": 1.2}, {7: False}),
        ({"one": 0.8}, {7: False}),
        ({"flat": 1.3}, {8: False, 9: False}),
        ({"none": 0.8}, {9: False}),
        ({"alone prefill": 2.9}, {10: False}),
        ({"alone": 2.9}, {11: False}),
        ({"copied prefill": 2.9}, {12: False}),
        ({"copied": 2.9}, {13: False}),
        ({"two": 1.6}, {15: False}),
        ({"two": 2.1}, {14: False, 15: False}),
        ({"two bytes": 4}, {16: False}),
        ({"right": 6}, {17: False}),
        ({"blind": 7}, {17: None}),
    ],
)
def test_every_claim_can_fail(changes, others):
    expected = [{5: None, **others}.get(index, True) for index in range(len(CLAIMS))]
    found = all_claims(made_up(changes))
    assert all(entry["claim"].startswith(text) for entry, text in zip(found, CLAIMS, strict=True))
    assert [entry["reproduced"] for entry in found] == expected
    assert all(entry["reason"] for entry in found if not entry["reproduced"])


def test_tables_figures_and_notes(tmp_path):
    results = made_up({})
    shown = tables(results)
    assert [len(table["rows"]) for table in shown] == [8, 4, 3, 4]
    assert all(len(row) == len(table["header"]) for table in shown for row in table["rows"])
    assert shown[1]["rows"][3][7:9] == [2 * results.attention[5]["milliseconds"]["copied"][0], 2.0]
    for folder in ("one", "two"):
        assert [figure["file"] for figure in draw_figures(results, tmp_path / folder)] == ["attention.svg", "steps.svg"]
    figure = (tmp_path / "one" / "steps.svg").read_text()
    assert figure == (tmp_path / "two" / "steps.svg").read_text()
    assert all(label in figure for label in ("prefix copied", "prefix shared", "no prefix", "two levels"))
    assert "attention 0.50, steps 0.50, whole texts unknown, tree 0.20" in hydragen.notes(results)[0]


@pytest.mark.slow
def test_the_smoke_run_judges_nothing(tmp_path):
    assert run_command(["reproduce", "--paper=hydragen", "--smoke", f"--out={tmp_path}"], "") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert all(claim["claim"].startswith(text) for claim, text in zip(metrics["claims"], CLAIMS, strict=True))
    assert all(claim["reproduced"] is None for claim in metrics["claims"])
    assert (tmp_path / "report.md").read_text().count("![") == 2
