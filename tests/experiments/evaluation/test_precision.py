"""The suite ``precision``: its numbers by hand, its page, and a whole smoke run of it."""

import json
import math

import numpy as np
import pytest

import jaxdec
from experiments.benchmarks.harness import Record
from experiments.benchmarks.rendering import render
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.evaluation import precision
from experiments.evaluation.command import run_command
from experiments.evaluation.page import evaluation_page
from experiments.evaluation.precision_page import (
    draw_precision,
    figure_names,
    newest_precision_results,
    precision_section,
    read_precision,
)
from experiments.evaluation.precision_quality import agreement_rows, quality_rows, score_window
from experiments.evaluation.precision_texts import WIDTH, WINDOWS, source_texts, source_windows
from experiments.evaluation.precision_timing import load_of, timing_rows
from experiments.evaluation.precision_verdicts import judge
from tests.experiments.benchmarks.synthetic import console
from tests.experiments.evaluation.test_page import table
from tests.tiny_models import markov_model


def entry(surprisal, kl=0.0, kl_max=0.0, same=10):
    return {"surprisal": surprisal, "kl": kl, "kl_max": kl_max, "same_argmax": same}


def windows():
    """Two texts of two windows of ten scored tokens; bfloat16 is 0.02 worse in each, int8 0.002 better."""
    return {
        source: [
            {"float32": entry(s), "bfloat16": entry(s + 0.02, 0.1 * s, s, 9), "int8": entry(s - 0.002, 0.01, 0.5, 10)}
            for s in surprisals
        ]
        for source, surprisals in {"one": (1.0, 3.0), "two": (2.0, 4.0)}.items()
    }


def outputs():
    plain = {"a": [1, 2, 3, 4], "b": [5, 6]}
    return {"float32": plain, "bfloat16": {"a": [1, 2, 9, 4], "b": [5, 6]}, "int8": {"a": [1, 2, 3, 4], "b": [5, 6, 7]}}


def record(tmp_path):
    """Three rounds; float32 takes 10, 20, 40 ms, bfloat16 half of that in each round, its prefill twice as fast."""
    made = Record(tmp_path / "timing.json", {})
    for round_, ms in enumerate((10.0, 20.0, 40.0)):
        sides = {
            dtype: {
                "metrics": {f"ms_{n}": factor * ms * (1 + n / 16) for n in (1, 4, 8, 16)}
                | {"prefill_tokens_per_second": rate},
                "foreign_load": load,
            }
            for dtype, factor, rate, load in (("float32", 1, 100.0 + round_, 0.05), ("bfloat16", 0.5, 200.0, 0.01 * ms))
        }
        attempt = {"case": "timing", "round": round_, "attempt": 0, "loud": ms > 10, "measurements": sides}
        made.add(attempt)
    return made


def document(tmp_path, **changes):
    surroundings = {"date": "2026-01-02T00:00:00+00:00", "jax": "0.0", "cpu_flags": ["avx", "fma"]}
    timed = record(tmp_path)
    rows = timing_rows(timed, ("float32", "bfloat16"), "float32")
    made = {
        "schema": 1,
        "suite": "precision",
        "smoke": False,
        "host": "a-machine",
        "date": "2026-01-02",
        "model": {"name": "m", "file": "m.Q4_1.gguf", "num_params": 10},
        "reference": "float32",
        "weights_bytes": {"float32": 4_000_000, "bfloat16": 2_000_000, "int8": 1_000_000},
        "texts": {name: {"about": f"text {name}", "windows": 2, "width": 11, "sha256": "0"} for name in ("one", "two")},
        "quality": {
            "environment": surroundings,
            "seed": 0,
            "rows": quality_rows(windows(), 10, 0),
            "agreement": agreement_rows(outputs(), 0),
            "max_new_tokens": 64,
        },
        "timing": {
            "environment": {**surroundings, "date": "2026-01-03T00:00:00+00:00"},
            "rows": [*rows, {**rows[1], "dtype": "int8"}],
            **load_of(timed),
        },
        **changes,
    }
    return {**made, "targets": judge(made)}


def test_a_window_is_scored_by_laws_known_exactly():
    (model, p), (other, q) = markov_model(num_states=5, seed=1), markov_model(num_states=5, seed=2)
    tokens = np.random.default_rng(0).integers(0, 5, 9).astype(np.int32)
    found = score_window({"float32": model, "int8": other}, tokens)
    behind, target = tokens[:-1], tokens[1:]
    divergence = (p * np.log(p / q)).sum(-1)[behind]
    assert found["int8"]["surprisal"] == pytest.approx(-np.log(q[behind, target]).mean(), rel=1e-5)
    assert found["int8"]["kl"] == pytest.approx(divergence.mean(), rel=1e-4)
    assert found["int8"]["kl_max"] == pytest.approx(divergence.max(), rel=1e-4)
    assert 0 < found["int8"]["same_argmax"] == (p.argmax(-1) == q.argmax(-1))[behind].sum() < 8
    assert found["float32"] == {
        "surprisal": pytest.approx(-np.log(p[behind, target]).mean(), rel=1e-5),
        "kl": 0,
        "kl_max": 0,
        "same_argmax": 8,
    }


def test_rows_of_quality_by_hand():
    rows = {(row["source"], row["dtype"]): row for row in quality_rows(windows(), 10, 0)}
    assert len(rows) == 9
    assert rows["one", "float32"]["perplexity"] == pytest.approx(math.exp(2))
    assert rows["all", "bfloat16"]["perplexity"] == pytest.approx(math.exp(2.52))
    # All windows change alike, however hard they are: the paired interval has no width.
    assert list(rows["all", "bfloat16"]["change"].values()) == pytest.approx([math.expm1(0.02)] * 3)
    assert rows["two", "int8"]["change"]["mean"] == pytest.approx(math.expm1(-0.002))
    assert rows["all", "float32"]["change"] == {"mean": 0, "low": 0, "high": 0}
    assert (rows["one", "bfloat16"]["kl"], rows["one", "bfloat16"]["kl_max"]) == (pytest.approx(0.2), 3.0)
    assert rows["all", "bfloat16"]["same_argmax"] == 0.9
    assert (rows["one", "int8"]["tokens_scored"], rows["all", "int8"]["tokens_scored"]) == (20, 40)


def test_agreement_counts_tokens_before_the_first_difference():
    rows = {row["dtype"]: row for row in agreement_rows(outputs(), 0)}
    assert rows["bfloat16"]["lengths"] == {"a": 2, "b": 2}
    assert (rows["bfloat16"]["equal"], rows["bfloat16"]["compared"]) == (1, 2)
    assert rows["int8"]["lengths"] == {"a": 4, "b": 2}  # b goes on where the reference ends
    assert rows["int8"]["equal"] == 1
    assert rows["float32"]["agreement"] == {"mean": 3, "low": 2, "high": 4}


def test_timing_takes_ratios_inside_a_round(tmp_path):
    reference, low = timing_rows(record(tmp_path), ("float32", "bfloat16"), "float32")
    assert low["step_ms"]["samples"] == pytest.approx([5 * 17 / 16, 10 * 17 / 16, 20 * 17 / 16])
    assert low["step_over_reference"]["samples"] == pytest.approx([0.5] * 3)
    assert low["relative"]["16"]["median"] == pytest.approx(2 / (17 / 16))
    assert low["relative"]["1"]["median"] == 1
    assert low["prefill_over_reference"]["samples"] == pytest.approx([2, 200 / 101, 200 / 102])
    assert reference["prefill_tokens_per_second"]["median"] == 101


def test_load_is_told_and_unknown_is_not_nought(tmp_path):
    timed = record(tmp_path)
    found = load_of(timed)
    assert (found["rounds"], found["loud_rounds"], found["foreign_load"]) == (3, 2, pytest.approx(0.2))
    for attempt in timed.attempts:
        for measurement in attempt["measurements"].values():
            measurement["foreign_load"] = None
    assert load_of(timed)["foreign_load"] is None


def test_texts_are_cut_into_the_windows_asked_for(tmp_path):
    lm = jaxdec.load(write_smoke_model(tmp_path / "smoke.gguf"))
    found = source_windows(lm.tokenizer)  # a token per letter: more than there are words
    assert {name: window.tokens.shape for name, window in found.items()} == {
        name: (count, WIDTH) for name, count in WINDOWS.items()
    }
    assert sum(WINDOWS.values()) * WIDTH == 8192
    text = lm.tokenizer.decode(found["code"].tokens.ravel().tolist())
    assert source_texts()["code"].startswith(text)
    changed = {name: text.replace("e", "i") for name, text in source_texts().items()}
    other = source_windows(lm.tokenizer, texts=lambda: changed)
    assert all(other[name].sha256 != found[name].sha256 for name in found)
    with pytest.raises(
        ValueError, match="the text 'code' cannot be cut: tokens has 3 ids, fewer than 5 windows of 512"
    ):
        source_windows(lm.tokenizer, texts=lambda: {"code": "abc"})


@pytest.mark.model
def test_the_real_tokenizer_finds_enough_tokens():
    from tests.real_model import real_model

    found = source_windows(real_model().tokenizer)
    assert sum(window.tokens.size for window in found.values()) == 8192


def test_the_size_of_the_change_is_judged(tmp_path):
    first, second = document(tmp_path)["targets"]
    assert (first["name"], first["measured"]) == (
        "bfloat16: size of the change of perplexity, all texts",
        pytest.approx(math.expm1(0.02)),
    )
    assert first["reached"] is False
    assert (second["measured"], second["reached"]) == (pytest.approx(-math.expm1(-0.002)), True)
    assert second["where"] == "95 % interval -0.20% to -0.20%"
    falls = {"one": [{"float32": entry(1.0), "int8": entry(0.9)}]}
    made = document(tmp_path)
    made["quality"]["rows"] = quality_rows(falls, 10, 0)
    made["weights_bytes"] = {"float32": 4, "int8": 1}
    assert [verdict["reached"] for verdict in judge(made)] == [False]
    assert [v["reached"] for v in judge({**made, "smoke": True})] == [None]
    assert judge({**made, "quality": None})[0]["reason"] == "not measured (timing alone)"


def test_numbers_on_the_page_are_those_of_the_result(tmp_path):
    page = evaluation_page([], [{**document(tmp_path), "stem": "s"}])
    assert "declared approximate" in page
    whole = table(page, "**All texts**")
    low = whole["bfloat16"]
    assert (low["weights, MB"], low["perplexity"]) == ("2", f"{math.exp(2.52):.3f}")
    assert low["change"] == "+2.02% [+2.02%, +2.02%]"
    assert (low["KL, mean"], low["KL, max"], low["same argmax"]) == ("0.25", "4", "90.00%")
    assert (low["greedy agreement"], low["equal"]) == ("2 [2, 2] of at most 64", "1 of 2")
    assert (low["step, ms"], low["T(16) / T(1)"], low["prefill, tokens/s"]) == ("10.6", "1.88", "200")
    assert low["/ float32"] == "1.98"  # the later of two columns of that name: the prefill's
    assert whole["float32"]["change"] == "-"
    assert table(page, "**By text**")["`two`: text two"]["perplexity"] == f"{math.exp(3):.3f}"
    surroundings = table(page, "### m, a-machine")
    assert surroundings["date"]["timing"] == "2026-01-03T00:00:00+00:00"
    assert surroundings["date"]["quality"] == "2026-01-02T00:00:00+00:00"
    assert surroundings["weights read from"]["quality"] == "m.Q4_1.gguf"
    assert surroundings["rounds, loud ones"]["timing"] == "3, 2"


def test_a_part_that_was_not_measured_is_a_dash(tmp_path):
    whole = table(precision_section({**document(tmp_path, timing=None), "stem": "s"}), "**All texts**")
    assert (whole["int8"]["step, ms"], whole["int8"]["KL, mean"]) == ("-", "0.01")
    text = precision_section({**document(tmp_path, quality=None), "stem": "s"})
    assert (table(text, "**All texts**")["int8"]["perplexity"], "**By text**" in text) == ("-", False)


def test_render_writes_page_and_figures_and_check_finds_them_stale(tmp_path):
    results, docs = tmp_path / "results", tmp_path / "docs"
    (results / "evaluation").mkdir(parents=True)
    docs.mkdir()
    for name, changes in {
        "new": {"date": "2026-01-09"},
        "old": {},
        "smoke": {"smoke": True, "date": "2026-02-01"},
    }.items():
        path = results / "evaluation" / f"precision_{name}.json"
        path.write_text(json.dumps(document(tmp_path, **changes)))
    (found,) = newest_precision_results(results / "evaluation")
    assert found["stem"] == "precision_new"
    assert render(results, docs, check=False, console=console()[0]) == 0
    assert render(results, docs, check=True, console=console()[0]) == 0
    page = (docs / "evaluation.md").read_text()
    assert figure_names(found) == ["precision_new_change.svg", "precision_new_steps.svg"]
    for name in figure_names(found):
        figure = results / "evaluation" / name
        assert f"(../benchmarks/results/evaluation/{name})" in page
        before = figure.read_bytes()
        draw_precision(found, figure.parent)
        assert figure.read_bytes() == before
    (results / "evaluation" / figure_names(found)[1]).unlink()
    assert render(results, docs, check=True, console=console()[0]) == 1
    (results / "evaluation" / "precision_broken.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a result of the suite precision"):
        newest_precision_results(results / "evaluation")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--measure=speed"], "--measure must be some of quality, timing; got 'speed'"),
        (["--methods=greedy"], "--methods is a flag of --suite=specbench, got it with --suite=precision"),
        (["--dtype=int8"], "--dtype is a flag of --suite=specbench"),
        (["--nopeer"], "--peer is a flag of --suite=specbench"),
        (["--families=poems"], "--families must be some of chat"),
        (["--suite=specbench", "--measure=timing"], "--measure is a flag of --suite=precision"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(monkeypatch, capsys, flags, message):
    monkeypatch.setattr(precision, "run", lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None)
    assert run_command(["evaluate", "--suite=precision", *flags], "") == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run that breaks off before the result is written, its continuation, and the timing taken again."""
    folder = tmp_path_factory.mktemp("precision")
    flags = ["evaluate", "--suite=precision", "--smoke", "--families=chat,edit", f"--out={folder}"]

    def run(*more, **broken):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxdec, "enable_compilation_cache", lambda: None)
            patch.setattr(precision, "sources_digest", lambda: "the same")  # whatever is edited meanwhile
            for name, what in broken.items():
                patch.setattr(*((precision, name) if name != "measure" else (precision.DtypeWorker, name)), what)
            status = run_command([*flags, *more], "")
        paths = list(folder.glob("*.json"))
        return status, read_precision(paths[0]) if paths else None

    def stop(*_, **__):
        raise ValueError("broken off")

    def twice(*_, **__):
        pytest.fail("computed twice")

    assert run(judge=stop) == (2, None)
    kept = {path.name for path in next(folder.glob(".*.parts")).iterdir()}
    first = run(score_window=twice, greedy_outputs=twice, measure=twice)
    again = run("--measure=timing", "--rounds=2", score_window=twice, greedy_outputs=twice)
    return kept, first, again, folder


@pytest.mark.slow
def test_a_run_that_broke_off_goes_on_from_its_parts(smoke):
    kept, (status, first), _, folder = smoke
    assert status == 0
    assert first["model"]["file"] == "smoke.F32.gguf"
    assert {"timing.json", "outputs_int8.json", "window_code_1.json", ".gitignore"} <= kept
    assert [path.name for path in folder.iterdir() if "parts" in path.name] == []


@pytest.mark.slow
def test_a_smoke_run_measures_everything_and_claims_nothing(smoke):
    _, (_, found), *_ = smoke
    assert found["stem"] == f"precision_smoke_smoke_{found['host']}_{found['date']}"
    assert [verdict["reached"] for verdict in found["targets"]] == [None, None]
    dtypes = ["float32", "bfloat16", "int8"]
    size = found["weights_bytes"]
    assert size["int8"] < size["bfloat16"] < size["float32"]
    rows = {(row["source"], row["dtype"]): row for row in found["quality"]["rows"]}
    assert len(rows) == 4 * len(dtypes)
    assert all(rows["all", low]["kl"] > 0 for low in dtypes[1:])
    assert rows["all", "float32"]["kl"] == 0
    assert rows["all", "int8"]["tokens_scored"] == 6 * 47
    for row in found["quality"]["agreement"]:
        assert set(row["lengths"]) == {"chat-1", "edit-1"}
        assert all(0 <= length <= 8 for length in row["lengths"].values())
    assert [row["dtype"] for row in found["timing"]["rows"]] == dtypes
    assert all(row["relative"]["1"]["samples"] == [1] for row in found["timing"]["rows"])


@pytest.mark.slow
def test_timing_can_be_taken_again_alone(smoke):
    _, (_, first), (status, again), _ = smoke
    assert status == 0
    assert again["quality"] == first["quality"]
    assert (first["timing"]["rounds"], again["timing"]["rounds"]) == (1, 2)
    assert [len(row["step_ms"]["samples"]) for row in again["timing"]["rows"]] == [2, 2, 2]
    assert [row["step_ms"]["samples"][0] for row in again["timing"]["rows"]] != [
        row["step_ms"]["samples"][0] for row in first["timing"]["rows"]
    ]


@pytest.mark.slow
def test_the_earlier_part_must_be_of_the_same_texts(smoke):
    *_, (_, again), folder = smoke
    options = precision.PrecisionOptions(folder, smoke=True)
    assert precision.earlier_result(options, again)["quality"] == again["quality"]
    other = {**again, "texts": {**again["texts"], "code": {**again["texts"]["code"], "sha256": "0"}}}
    assert precision.earlier_result(options, other) == {}
    assert precision.earlier_result(precision.PrecisionOptions(folder), again) == {}  # a smoke run's part is none
