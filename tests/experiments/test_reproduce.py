"""The launcher: with a paper made up for the purpose in this process, and as a user runs it."""

import importlib
import json
import os
import signal
import subprocess
import sys

import pytest

import configs.papers
import experiments.papers
from experiments.papers.command import define_flags, kind, merged, papers, run_command

ALL_PAPERS = sorted([*papers(), "made_up"])
REPLICA = """
import sys
from experiments.papers.parts import Parts
from experiments.record import write_text

CALLS = []

def run(config, out_dir, progress):
    parts = Parts.open(out_dir / "parts", config, [sys.modules[__name__]])
    total = 0
    with progress.task("counting", config["count"]) as advance:
        for number in range(config["count"]):
            total += parts.get(f"number_{number}", lambda: CALLS.append(number) or number * config["sizes"]["factor"])
            if number == config["stop_at"]:
                raise ValueError("stopped")
            advance("")
    write_text(out_dir / "figure.svg", "<svg/>")
    return {
        "title": "Made Up", "source": "nowhere", "files": ["README.md"], "guarantee": "bitwise", "total": total,
        "claims": [{"claim": "it adds up", "paper": "3", "measured": str(total), "reproduced": True, "reason": None}],
        "tables": [], "figures": [{"file": "figure.svg", "caption": "Nothing."}], "notes": [], "seconds": parts.seconds(),
    }
"""
CONFIG = '''"""Adds numbers up.

Source: nowhere.
"""
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({"count": 3, "stop_at": -1, "name": "x", "sizes": {"factor": 1.0}, "smoke": {"count": 1}})
'''


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A paper called made_up; yields a function that runs the launcher in this process."""
    for package, source in ((configs.papers, CONFIG), (experiments.papers, REPLICA)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "made_up.py").write_text(source)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield lambda *flags: run_command(["reproduce", *map(str, flags)], "What it does.")
    for name in ("configs.papers.made_up", "experiments.papers.made_up"):
        sys.modules.pop(name, None)


def calls() -> list[int]:
    return sys.modules["experiments.papers.made_up"].CALLS


def test_a_replica_leaves_metrics_report_and_figures(made_up, tmp_path, capsys):
    out = tmp_path / "out"
    assert made_up("--paper=made_up", f"--out={out}") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["claims"] == [
        {"claim": "it adds up", "paper": "3", "measured": "3.0", "reproduced": True, "reason": None}
    ]
    assert metrics["config"] == {"count": 3, "stop_at": -1, "name": "x", "sizes": {"factor": 1.0}}
    assert metrics["command"] == "python -m experiments.reproduce --paper=made_up"
    assert (metrics["paper"], metrics["smoke"], metrics["total"]) == ("made_up", False, 3.0)
    assert {"jax", "commit", "cpu_model"} <= set(metrics["environment"])
    assert "| it adds up | 3 | 3.0 | yes | - |" in (out / "report.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["figure.svg", "metrics.json", "parts", "report.md"]
    stdout, stderr = capsys.readouterr()
    assert stdout == f"[yes] it adds up\n    paper: 3\n    here:  3.0\n{out / 'report.md'}\n"
    assert "counting ..." in stderr


def test_finished_parts_are_not_computed_again(made_up, tmp_path, capsys):
    out, config = tmp_path / "out", tmp_path / "config.py"
    config.write_text("def get_config():\n    return {'stop_at': 1}\n")
    assert made_up("--paper=made_up", f"--out={out}", f"--config={config}") == 2
    assert "error: stopped" in capsys.readouterr().err
    assert calls() == [0, 1]
    assert not (out / "metrics.json").exists()
    assert made_up("--paper=made_up", f"--out={out}", f"--config={config}") == 2
    assert calls() == [0, 1], "finished parts were computed again"
    assert made_up("--paper=made_up", f"--out={out}") == 0
    assert calls() == [0, 1, 0, 1, 2], "another config must not use them"
    (out / "parts" / "number_1.json").unlink()
    assert made_up("--paper=made_up", f"--out={out}") == 0
    assert calls() == [0, 1, 0, 1, 2, 1]


def test_a_smoke_run_is_small_and_judges_nothing(made_up, tmp_path, capsys):
    out = tmp_path / "out"
    assert made_up("--paper=made_up", f"--out={out}", "--smoke") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["smoke"], metrics["config"]["count"], metrics["claims"][0]["reproduced"]) == (True, 1, None)
    assert made_up("--paper=made_up", f"--out={out}") == 0  # a full result may replace it
    assert made_up("--paper=made_up", f"--out={out}", "--smoke") == 2  # but not the other way round
    assert f"--out={out} holds the result of a full run" in capsys.readouterr().err
    assert json.loads((out / "metrics.json").read_text())["smoke"] is False


def test_fields_of_a_config_file_win_at_any_depth(made_up, tmp_path):
    config, out = tmp_path / "config.py", tmp_path / "out"
    config.write_text("def get_config():\n    return {'count': 2, 'sizes': {'factor': 3}}\n")
    assert made_up("--paper=made_up", f"--out={out}", f"--config={config}", "--smoke") == 0
    assert json.loads((out / "metrics.json").read_text())["total"] == 3.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{'counts': 2}", "unknown field 'counts'; known: count, name, sizes, stop_at"),
        ("{'sizes': {'factors': 2}}", "sizes: unknown field 'factors'; known: factor"),
        ("{'sizes': 2}", "field 'sizes' has fields of its own, got 2"),
        ("{'count': '2'}", "field 'count' must be a number such as 3, got '2'"),
        ("{'count': True}", "field 'count' must be a number such as 3, got True"),
        ("{'name': 1}", "field 'name' must be a text such as 'x', got 1"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(made_up, tmp_path, capsys, body, message):
    config = tmp_path / "config.py"
    config.write_text(f"def get_config():\n    return {body}\n")
    assert made_up("--paper=made_up", f"--out={tmp_path / 'out'}", f"--config={config}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config={config}: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--paper=nonsense"], f"--paper must be one of {', '.join(ALL_PAPERS)}, or list; got 'nonsense'"),
        ([], f"--paper must be one of {', '.join(ALL_PAPERS)}, or list; none was given"),
        (["--paper=made_up", "--config=/nowhere.py"], "--config=/nowhere.py: no such file"),
        (["--paper=made_up", "--out=/dev/null/x"], "/dev/null"),
        (["--paper=made_up", "--nonsense=1"], "Unknown command line flag 'nonsense'"),
        (["made_up"], "'made_up' is not a flag; flags are written --name=value"),
    ],
)
def test_bad_input_is_one_clear_line(made_up, capsys, flags, message):
    assert made_up(*flags) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert message in stderr
    assert stderr.count("\n") == 1


def test_help_and_list(made_up, capsys):
    assert made_up("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown or f"--[no]{name}" in shown for name in ("paper", "out", "smoke", "config"))
    assert shown.startswith("What it does.")
    assert made_up("--paper=list") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in shown] == ALL_PAPERS
    assert any(line.startswith("diverse_beam_search: Diverse beam search (Vijayakumar et al. 2016)") for line in shown)
    assert "made_up: Adds numbers up." in shown


def test_every_paper_has_what_it_needs():
    names = papers()
    assert "diverse_beam_search" in names
    assert define_flags()["paper"].help.endswith("or 'list'")
    for name in names:
        config = importlib.import_module(f"configs.papers.{name}")
        document = config.__doc__ or ""
        for needed in ("Source:", f"--paper={name}", "Expected figure:", "Time:", "core"):
            assert needed in document, f"configs/papers/{name}.py does not say {needed!r}"
        fields = config.get_config().to_dict()
        merged(fields, fields.pop("smoke"), "smoke")
        assert callable(importlib.import_module(f"experiments.papers.{name}").run)


def test_kinds_of_values():
    assert [kind(value) for value in (1, 0.5, "a", (1,), [1], True, None)] == [
        "number",
        "number",
        "text",
        "list",
        "list",
        "bool",
        "NoneType",
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {**os.environ, "JAXDEC_CACHE": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu"}


def command(*flags):
    return [
        sys.executable,
        "-W",
        "error",
        "-m",
        "experiments.reproduce",
        "--paper=diverse_beam_search",
        "--smoke",
        *flags,
    ]


def test_ctrl_c_ends_it_at_once(environment, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        command(f"--out={out}"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr.readline() == "training, 1 in a story ...\n"
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.endswith("Interrupted: finished parts are kept, the same command goes on from there.\n")
    assert "Traceback" not in stderr
    assert not (out / "metrics.json").exists()


@pytest.mark.slow
def test_the_smoke_run_of_the_first_paper_and_going_on(environment, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(command(f"--out={out}"), env=environment, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("short paraphrases, B=4: sample"):
                process.send_signal(signal.SIGINT)
                break
        process.wait(timeout=60)
    assert process.returncode == 130
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.json")}
    assert len(kept) == 6
    done = subprocess.run(
        command(f"--out={out}"), env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {name: (out / "parts" / name).stat().st_mtime_ns for name in kept} == kept
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(metrics["claims"]) == 17
    assert {claim["reproduced"] for claim in metrics["claims"]} == {None}
    assert (out / "oracle_b4.svg").exists()
    assert (out / "variety_b4.svg").exists()
