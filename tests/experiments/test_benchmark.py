"""The command, as a user runs it."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from rich.console import Console

from experiments.benchmarks import command
from experiments.benchmarks.command import run_command
from experiments.benchmarks.rendering import render

ROOT = Path(__file__).resolve().parents[2]


def launch(*arguments, **options):
    line = [sys.executable, "-W", "error", "-m", "experiments.benchmark", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=500, check=False, **options)


def check_rows(document, commit_known=True):
    for row in document["rows"]:
        assert row["jax"] == jax.__version__
        assert row["hardware"]["cores"] >= 1
        assert row["peak_rss_bytes"] > 50 << 20
        assert row["compile_seconds"] is None or row["compile_seconds"] > 0
        if row["engine"] == "jaxdec":
            assert row["compile_seconds"] is not None or row["case"] == "copy"
            assert row["tokens_per_call"] == 1.0 or row["case"] in ("step_cost", "copy")


@pytest.mark.slow
def test_smoke_run_of_cpu_decode(tmp_path):
    """Starts the real engines, and the real command; peers take part where they are installed."""
    cache = {"JAXDEC_CACHE": str(tmp_path / "cache")}
    done = launch("--suite=cpu_decode", "--smoke", "--rounds=1", f"--out={tmp_path}", env={**os.environ, **cache})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
    measured = {(row["case"], row["side"]) for row in document["rows"]}
    assert {("decode", "jaxdec-float32"), ("prefill", "jaxdec-bfloat16"), ("cold_start", "command")} <= measured
    everybody = {side for _, side in measured} | {entry["side"] for entry in document["absent"]}
    assert everybody == {
        "jaxdec-float32", "jaxdec-bfloat16", "transformers-float32", "transformers-bfloat16", "llama.cpp", "command",
    }  # fmt: skip
    for entry in document["absent"]:
        assert "not installed" in entry["reason"]
        assert f"absent: {entry['side']}: not installed" in done.stderr
    check_rows(document)
    cold = next(row for row in document["rows"] if row["case"] == "cold_start")
    assert 0 < cold["metrics"]["first_text_seconds"]["median"] < cold["metrics"]["total_seconds"]["median"]
    assert {verdict["reached"] for verdict in document["targets"]} == {None}
    assert not list(tmp_path.glob(".*.partial.json"))


@pytest.mark.slow
def test_smoke_run_of_gpu_decode(tmp_path):
    done = launch("--suite=gpu_decode", "--smoke", "--rounds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
    assert [row["case"] for row in document["rows"]] == ["copy", "decode_batch_1", "decode_batch_8", "decode_batch_32"]
    check_rows(document)


@pytest.mark.slow
def test_smoke_run_of_kernels(tmp_path):
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # nearly all of the time is compiling
    done = launch("--suite=kernels", "--smoke", "--rounds=1", f"--out={tmp_path}", env=quick)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
    measured = {(row["operation"], row["side"]) for row in document["rows"] if row["case"] != "ceilings"}
    ours = {(name, "jaxdec-xla") for name in ("merge", "prefix_attention", "decode_attention", "whole_attention")}
    assert {*ours, ("whole_attention", "copied-xla"), ("decode_attention", "jax.nn-xla")} <= measured
    assert document["refused"] == []
    for row in document["rows"]:
        assert row["jax"] == jax.__version__
        assert row["metrics"].get("fraction_of_floor", {"median": 1})["median"] > 0
        if row["engine"] == "jaxdec" and row["case"] != "ceilings":
            assert row["compile_seconds"] > 0
            assert row["difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.peers
def test_smoke_run_with_all_peers(tmp_path):
    for package in ("torch", "transformers", "accelerate", "xllamacpp"):
        pytest.importorskip(package)
    done = launch("--suite=cpu_decode", "--smoke", "--rounds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
    assert document["absent"] == []
    check_rows(document)
    rows = {(row["case"], row["side"]): row for row in document["rows"]}
    for case in ("decode", "prefill"):
        assert set(rows[case, "jaxdec-float32"]["ratios"]) == {
            "jaxdec-bfloat16", "transformers-float32", "transformers-bfloat16", "llama.cpp",
        }  # fmt: skip
        assert rows[case, "transformers-float32"]["tokens_per_call"] == 1.0
    # One file, two engines, one text.
    assert document["agreement"] == {"sides": ["jaxdec-float32", "transformers-float32"], "tokens": 6, "equal": True}


@pytest.mark.slow
def test_ctrl_c_keeps_the_rounds_and_the_same_command_goes_on(tmp_path):
    line = [sys.executable, "-m", "experiments.benchmark", "--suite=gpu_decode", "--smoke", "--rounds=100"]
    process = subprocess.Popen([*line, f"--out={tmp_path}"], stderr=subprocess.PIPE, text=True)
    try:
        for text in process.stderr:
            if "measured decode_batch_1 round 1 of" in text:
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted: the rounds measured so far are kept" in rest
    assert "Traceback" not in rest
    (partial,) = tmp_path.iterdir()
    kept = json.loads(partial.read_text())["attempts"]
    assert len(kept) >= 2
    done = launch("--suite=gpu_decode", "--smoke", "--rounds=100", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"continuing after {len(kept)} attempts" in done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
    for row in document["rows"]:
        samples = next(iter(row["metrics"].values()))["samples"]
        assert len(samples) == 100
        name, side = row["case"], row["side"]
        before = [
            entry["measurements"][side]["metrics"][next(iter(row["metrics"]))]
            for entry in kept
            if entry["case"] == name
        ]
        assert samples[: len(before)] == before
    assert not partial.exists()


def run(capsys, *arguments):
    """The command in this process."""
    status = run_command(["benchmark", *map(str, arguments)], "what it is")
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--suite must be one of cpu_decode, gpu_decode, kernels, long_context, training, list; got None"),
        (
            ["--suite=tpu"],
            "--suite must be one of cpu_decode, gpu_decode, kernels, long_context, training, list; got 'tpu'",
        ),
        (["--suite=cpu_decode", "--rounds=0"], "--rounds=0"),
        (["--suite=cpu_decode", "--repeats=-1"], "--repeats=-1"),
        (["--suite=cpu_decode", "--wait_quiet=-1"], "--wait_quiet=-1"),
        (["--suite=cpu_decode", "--model=/nowhere.gguf"], "no file or folder there"),
        (["--suite=cpu_decode", "--model=nonsense"], "Known names"),
        (["--nonsense"], "Unknown command line flag 'nonsense'"),
        (["render"], "unexpected argument 'render'"),
        (["--check"], "--check goes with --render"),
        (["--render", "--suite=cpu_decode"], "give one of --render and --suite"),
        (["--render", "--out=/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, arguments, message):
    given = arguments if any(a.startswith("--out") for a in arguments) else [*arguments, f"--out={tmp_path}"]
    status, out, err = run(capsys, *given)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_found_out_first(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, "--suite=cpu_decode", "--smoke", f"--out={tmp_path / 'file'}")
    assert status == 2
    assert "File exists" in err
    assert "loading" not in err


def test_an_engine_of_ours_that_fails_is_status_1(capsys, tmp_path, monkeypatch):
    def fail(options, console):
        raise command.WorkerError("worker jaxdec-float32 died with status -9: it said nothing")

    monkeypatch.setitem(command.SUITES, "cpu_decode", fail)
    status, _, err = run(capsys, "--suite=cpu_decode", f"--out={tmp_path}")
    assert status == 1
    assert err == "error: worker jaxdec-float32 died with status -9: it said nothing\n"


def test_flags_become_options(capsys, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setitem(
        command.SUITES, "cpu_decode", lambda options, console: seen.append(options) or tmp_path / "r.json"
    )
    monkeypatch.setattr(command.rendering, "show", lambda path, console: None)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command, "SMOKE_RESULTS", tmp_path / "smoke")
    status, out, _ = run(capsys, "--suite=cpu_decode", "--wait_quiet=3", "--repeats=5", "--model=m.gguf")
    assert (status, out) == (0, f"{tmp_path / 'r.json'}\n")
    run(capsys, "--suite=cpu_decode", "--smoke")
    real, smoke = seen
    assert (real.out, real.rounds, real.repeats, real.wait_quiet, real.model) == (
        tmp_path / "results",
        7,
        5,
        3.0,
        "m.gguf",
    )
    assert (smoke.out, smoke.rounds, smoke.repeats, smoke.smoke) == (tmp_path / "smoke", 2, 0, True)
    assert {path.name for path in tmp_path.iterdir()} == {"results", "smoke"}


def test_list_and_help(capsys):
    status, out, _ = run(capsys, "--suite=list")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == list(command.SUITES)
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert out.startswith("what it is\n")
    assert "--wait_quiet" in out


def test_check_gives_a_clear_answer_in_a_fresh_clone(tmp_path, monkeypatch, capsys):
    """Sources and pages, and no result yet."""
    clone = tmp_path / "clone"
    for folder in ("experiments", "jaxdec", "pallas_kernels"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    results = clone / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / ".gitkeep").write_text("")
    render(results, clone / "docs", check=False, console=Console(file=io.StringIO()))
    clean = {**os.environ, "PYTHONPATH": str(clone)}
    done = launch("--render", "--check", cwd=clone, env=clean)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"benchmarks\.md and .*papers\.md and .*evaluation\.md are what the results in .* say\n$", done.stderr
    )
    (clone / "docs" / "benchmarks.md").write_text("typed by hand")
    done = launch("--render", "--check", cwd=clone, env=clean)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "docs/benchmarks.md is not what the results say: run python -m experiments.benchmark --render" in done.stderr
