"""The suite ``long_context``: its numbers by hand, its page, its questions, and a whole smoke run of it."""

import json
import math

import numpy as np
import pytest

import jaxdec
from experiments.benchmarks.rendering import render
from experiments.evaluation import long_context
from experiments.evaluation.command import run_command
from experiments.evaluation.long_context_page import (
    draw_long_context,
    figure_names,
    long_context_section,
    newest_long_context_results,
    read_long_context,
)
from experiments.evaluation.long_context_rows import REFERENCE, ROWS, SMOKE_ROWS
from experiments.evaluation.long_context_scoring import STEPS, prepared
from experiments.evaluation.long_context_summary import right, summarise
from experiments.evaluation.page import evaluation_page
from jaxdec.context_rules import attention_rule, kv_cache_rule
from jaxdec.loading import LoadedModel
from tests.experiments.benchmarks.synthetic import console
from tests.tiny_models import tiny_transformer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer


def under(log_probs, prefill=1.0, step=0.5, size=100, skipped=0.0, unread=0.0):
    return {
        "prefill_seconds": prefill,
        "step_seconds": step,
        "cache_bytes": size,
        "prefill_sparsity": skipped,
        "decode_sparsity": unread,
        "log_probs": log_probs,
    }


MEASURED = [
    {"name": "a_0", "task": "a", "tokens": 9, "by_rule": {
        "dense": under([-1.0, -2.0]), "rule": under([-2.0, -1.0], 0.5, 0.5, 10, 0.5, 0.25)}},
    {"name": "a_1", "task": "a", "tokens": 9, "by_rule": {
        "dense": under([-1.0, -2.0], 2.0), "rule": under([-1.0, -3.0], 0.5, 0.25, 20, 0.75, 0.25)}},
    {"name": "b_0", "task": "b", "tokens": 9, "by_rule": {
        "dense": under([-3.0, -2.0], 3.0), "rule": under([-3.0, -2.0], 3.0, 0.5, 10, 1.0, 0.25)}},
    {"name": "p_0", "task": "passage", "tokens": 9, "by_rule": {
        "dense": under([-2.0]), "rule": under([-2.5], 1.0, 0.5, 10)}},
]  # fmt: skip


def document():
    return {
        "schema": 1,
        "suite": "long_context",
        "smoke": False,
        "host": "a-machine",
        "date": "2026-01-02",
        "environment": {"date": "2026-01-02T00:00:00+00:00", "jax": "0.0", "cpu_flags": ["avx"]},
        "model": {"name": "m", "file": "m.gguf", "num_params": 10},
        "tokens": 9,
        "seed": 0,
        "rules": [
            {"name": "dense", "attention": None, "kv_cache": None, "phase": ""},
            {"name": "rule", "attention": "quest:budget=32", "kv_cache": None, "phase": "decode"},
        ],
        "prompts": {"a": 2, "b": 1, "passage": 1},
        "chance": {"a": 0.5, "b": 0.25},
        "rows": summarise(MEASURED, ["dense", "rule"], "dense", 0),
        "measured": MEASURED,
    }


def test_rows_by_hand():
    dense, rule = summarise(MEASURED, ["dense", "rule"], "dense", 0)
    assert dense["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert rule["accuracy"]["mean"] == pytest.approx(1 / 3)
    assert rule["accuracy_by_task"] == {"a": 0.5, "b": 0.0}
    assert rule["answer_surprisal"] == 2.0
    assert dense["perplexity"] == pytest.approx(math.exp(2))
    assert rule["perplexity_change"]["mean"] == pytest.approx(math.exp(0.5) - 1)
    assert dense["perplexity_change"]["mean"] == 0
    assert rule["prefill_sparsity"] == (0.5 + 0.75 + 1.0 + 0) / 4
    assert rule["cache_bytes"] == 20
    assert rule["prefill_seconds"] == 0.75
    assert rule["prefill_over_reference"] == 0.75  # the median of 0.5, 0.25, 1 and 1
    assert rule["step_over_reference"] == 1.0
    assert not right([-1.0, -1.0])  # a tie is no answer


def test_rules_of_the_table_can_be_asked_for():
    for row in (*ROWS, *SMOKE_ROWS):
        assert (attention_rule(row.attention) is None) == (row.attention is None)
        assert (kv_cache_rule(row.kv_cache) is None) == (row.kv_cache is None)
        prepared([1] * 700, row, 16)
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert ROWS[0].name == SMOKE_ROWS[0].name == REFERENCE
    assert {"prefill", "decode", "cache"} == {row.phase for row in SMOKE_ROWS[1:]}


def test_questions_fit_and_have_one_right_way_on():
    lm = LoadedModel(tiny_transformer(vocab_size=NUM_TOKENS), byte_tokenizer(), "random")
    options = long_context.LongContextOptions(out=None, tokens=768, limit=2, smoke=True)  # type: ignore[arg-type]
    asked = long_context.questions(lm, options)
    assert [one.task for one in asked] == ["needle"] * 2 + ["variable_tracking"] * 2 + ["passage"] * 2
    decode = lm.tokenizer.decode
    for one in asked:
        assert len(one.tokens) <= 768 - STEPS
        assert len({tuple(scored) for _, scored in one.ways}) == len(one.ways)
        if one.task == "needle":
            given, scored = one.ways[0]
            assert decode(given).startswith("The number of the ")
            assert f"{decode(given)}{decode(scored)}." in decode(list(one.tokens))
    laid = long_context.laid_out(asked[0].ways, 70)
    assert laid.tokens.shape == laid.scored.shape == (8, 70)
    given, scored = asked[0].ways[0]
    assert laid.tokens[0, : len(given) + len(scored)].tolist() == [*given, *scored]
    assert np.flatnonzero(laid.scored[0]).tolist() == list(range(len(given), len(given) + len(scored)))
    passage = long_context.laid_out(asked[-1].ways, 70)
    assert (passage.tokens.shape, passage.scored.shape) == ((8, 70), (8, 70))
    assert (passage.tokens == passage.tokens[:1]).all()
    capacities = {prepared(one.tokens, ROWS[0], 70).capacity for one in asked}
    assert len(capacities) == 1  # prompts and the steps behind them lie in one bucket
    with pytest.raises(ValueError, match="tokens must be at most"):
        long_context.questions(lm, long_context.LongContextOptions(out=None, tokens=10**6, limit=1, smoke=True))  # type: ignore[arg-type]


def test_page_and_figure(tmp_path):
    results = tmp_path / "results"
    (results / "evaluation").mkdir(parents=True)
    for date, smoke in (("2026-01-01", False), ("2026-01-02", False), ("2026-01-03", True)):
        path = results / "evaluation" / f"long_context_m_{date}.json"
        path.write_text(json.dumps({**document(), "date": date, "smoke": smoke}))
    (newest,) = newest_long_context_results(results / "evaluation")
    assert newest["date"] == "2026-01-02"
    text = long_context_section(newest)
    assert "| rule | `--attention=quest:budget=32` | 0.33 [0.00, 1.00] | 2.00 | 12.18 | +64.9% |" in text
    assert "| guessing | 0.50 | 0.25 |" in text
    assert figure_names(newest) == ["long_context_m_2026-01-02_tradeoff.svg"]
    draw_long_context(newest, tmp_path)
    assert (tmp_path / figure_names(newest)[0]).read_bytes().startswith(b"<?xml")
    page = evaluation_page([], [], [newest])
    assert text in page
    assert "Not measured yet." in evaluation_page([])
    assert render(results, tmp_path, check=False, console=console()[0]) == 0
    assert (tmp_path / "evaluation.md").read_text() == page
    assert render(results, tmp_path, check=True, console=console()[0]) == 0
    (results / "evaluation" / "long_context_x.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a result of the suite long_context"):
        read_long_context(results / "evaluation" / "long_context_x.json")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--suite=specbench", "--tokens=600"],
            "--tokens is a flag of --suite=long_context, got it with --suite=specbench",
        ),
        (["--suite=long_context", "--tokens=100"], "tokens"),
        (["--suite=long_context", "--families=chat"], "--families is no flag of --suite=long_context"),
        (["--suite=long_context", "--rounds=2"], "--rounds is no flag of --suite=long_context"),
    ],
)
def test_bad_flags(flags, message, capsys):
    assert run_command(["evaluate", *flags], "") == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_smoke_run_goes_on_from_finished_prompts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None)
    command = ["evaluate", "--suite=long_context", "--smoke", f"--out={tmp_path}"]
    measure, calls = long_context.measure, []

    def broken(model, prompt, continuations, warm):
        calls.append(prompt)
        if len(calls) > len(SMOKE_ROWS) + 2:
            raise ValueError("stop")
        return measure(model, prompt, continuations, warm)

    monkeypatch.setattr(long_context, "measure", broken)
    assert run_command(command, "") == 2
    calls.clear()
    monkeypatch.setattr(long_context, "measure", lambda *a: calls.append(0) or measure(*a))
    assert run_command(command, "") == 0
    assert len(calls) == 2 * len(SMOKE_ROWS)  # of three prompts one was finished
    (path,) = tmp_path.glob("long_context_smoke_*.json")
    assert str(path) in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["smoke"] is True
    assert [row["rule"] for row in found["rows"]] == [row.name for row in SMOKE_ROWS]
    by_name = {row["rule"]: row for row in found["rows"]}
    assert by_name["vertical_slash"]["prefill_sparsity"] > 0.5 > by_name["dense"]["prefill_sparsity"] == 0
    assert by_name["quest"]["decode_sparsity"] > 0.5
    assert by_name["snapkv"]["decode_sparsity"] > 0.5
    assert by_name["int4"]["cache_bytes"] < by_name["dense"]["cache_bytes"]
