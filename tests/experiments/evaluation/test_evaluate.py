"""The launcher: what it refuses, and a whole smoke run of it."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

import jaxdec
from experiments import evaluate
from experiments.evaluation import specbench
from experiments.evaluation.command import run_command

QUICK = ("edit",), ("prompt_lookup_7",)
WHOLE = ("chat", "edit"), ("prompt_lookup_7", "aded_adaptive_63")


@pytest.fixture
def run(monkeypatch, capsys):
    """``run(*flags)`` returns exit status, stdout and stderr of the command in this process."""
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None)

    def run(*flags):
        status = evaluate.main(["evaluate", *map(str, flags)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_list_and_help(run):
    assert run("--suite=list")[:2] == (
        0,
        "specbench: speculative methods on six families of prompts, in the manner of Spec-Bench\n"
        "precision: what models in bfloat16 and int8 cost and give, beside float32\n"
        "long_context: rules that read or keep less of a long context, on retrieval tasks and passages\n",
    )
    status, out, _ = run("--help")
    assert status == 0
    for flag in ("--methods", "--limit", "--rounds", "--families", "--max_new_tokens", "--[no]smoke", "--[no]peer"):
        assert flag in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--suite must be one of specbench, precision, long_context, or list; none was given"),
        (["--suite=mt_bench"], "got 'mt_bench'"),
        (["--suite=specbench", "--methods=greedy,medusa"], "got 'medusa'"),
        (["--suite=specbench", "--families=poems"], "--families must be some of chat, code"),
        (["--suite=specbench", "--limit=0"], "limit"),
        (["--suite=specbench", "--rounds=0"], "rounds"),
        (["--suite=specbench", "--max_new_tokens=1"], "max_new_tokens"),
        (["--suite=specbench", "--dtype=float16"], "dtype"),
        (["--suite=specbench", "--text=/no/such/file"], "--text=/no/such/file: there is no such file"),
        (["--suite=precision", "--text=/no/such/file"], "--text is a flag of --suite=specbench"),
        (["--suite=specbench", "extra"], "'extra' is not a flag"),
        (["--suite=specbench", "--smoke", "--out=/dev/null/x"], "/dev/null/x"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(run, monkeypatch, flags, message):
    monkeypatch.setattr(specbench, "run", lambda *_: pytest.fail("it ran"))
    status, out, err = run(*flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def broken_off_and_continued(folder, families, arms):
    """A smoke run that breaks off before its result is written, and its continuation: ``(result, path, kept parts)``."""
    flags = ["evaluate", "--suite=specbench", "--smoke", f"--out={folder}"]
    flags += [f"--families={','.join(families)}", f"--methods={','.join(arms)}", f"--text={folder}/notes.txt"]
    (folder / "notes.txt").write_text("some text beside the outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxdec, "enable_compilation_cache", lambda: None)
        patch.setattr(
            "experiments.evaluation.setting.sources_digest", lambda: "the same"
        )  # whatever is edited meanwhile

        def broken(document):
            raise ValueError("broken off")

        patch.setattr(specbench, "judge", broken)
        assert run_command(flags, "") == 2
    kept = sorted(path.name for path in next(folder.glob(".*.parts")).iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxdec, "enable_compilation_cache", lambda: None)
        patch.setattr("experiments.evaluation.setting.sources_digest", lambda: "the same")
        for name in ("greedy_outputs", "drafting_cost", "over_domain", "relative_step_cost"):
            patch.setattr(specbench, name, lambda *_, **__: pytest.fail("computed twice"))
        patch.setattr(
            "experiments.evaluation.decoding.ArmWorker.measure", lambda *_, **__: pytest.fail("measured twice")
        )
        assert run_command(flags, "") == 0
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text()), path, kept


@pytest.mark.slow
@pytest.mark.parametrize(("families", "arms"), [QUICK, WHOLE])
def test_a_run_that_broke_off_keeps_its_parts_and_goes_on_from_them(tmp_path, families, arms):
    document, path, kept = broken_off_and_continued(tmp_path, families, arms)
    assert {"collection.json", "rounds.json", "step_cost_float32.json", ".gitignore"} <= set(kept)
    assert ("adaptation_code_adaptive.json" in kept) == ("aded_adaptive_63" in arms)
    assert [name for name in os.listdir(tmp_path) if "parts" in name] == []  # gone with the result written
    says_what_was_measured_and_how(document, path, families, arms)
    has_the_texts_of_plain_decoding(document, families, arms)
    has_counters_that_add_up(document, families)
    has_drafting_and_adaptation(document, arms)


def says_what_was_measured_and_how(document, path, families, arms):
    assert path.name == f"specbench_smoke_smoke-float32_{document['host']}_{document['date']}.json"
    assert document["environment"]["jax"] == jax.__version__
    with_memory = "aded_adaptive_63" in arms
    assert [file["name"] for file in document["collection"]["files"]] == ["notes.txt"] * with_memory
    assert list(document["arms"]) == ["greedy", *arms]
    assert {(row["family"], row["arm"]) for row in document["rows"]} == {
        (family, arm) for family in (*families, "all") for arm in document["arms"]
    }
    assert document["foreign_load"].keys() == {"median", "min", "max", "samples"}
    assert [target["measured"] for target in document["targets"]] == [None] * 7


def has_the_texts_of_plain_decoding(document, families, arms):
    number = len(families)
    assert document["differences"] == {name: {"compared": number, "equal": number, "unequal": []} for name in arms}


def has_counters_that_add_up(document, families):
    for row in document["rows"]:
        assert row["tokens_per_call"] == row["new_tokens"] / row["target_calls"] >= 1
        assert row["new_tokens"] == row["prompts"] * 8
        assert sum(row["accepted"]) <= row["fed"]
        timed = document["arms"][row["arm"]]["timed"]
        assert ("speedup" in row) == timed
        sample = document["samples"][row["arm"]][f"{families[0]}-1"]
        assert len(sample["decode_ms"]) == 1
    by = {(row["family"], row["arm"]): row for row in document["rows"]}
    assert by["all", "prompt_lookup_7"]["fed"] == 7 * (by["all", "prompt_lookup_7"]["target_calls"] - len(families))


def has_drafting_and_adaptation(document, arms):
    assert {cost["arm"] for cost in document["drafting"]} == {"prompt_lookup_7"}  # what is timed
    learnt = [(row["domain"], row["ids"]) for row in document.get("adaptation", ())]
    assert learnt == ([("code", ["code-01"]), ("chat", ["chat-01"])] if "aded_adaptive_63" in arms else [])


@pytest.mark.slow
def test_as_a_user_runs_it_and_ctrl_c(tmp_path):
    flags = [
        "--suite=specbench",
        "--smoke",
        "--families=chat",
        "--methods=prompt_lookup_7",
        "--nopeer",
        f"--out={tmp_path}",
    ]
    command = [sys.executable, "-W", "error", "-m", "experiments.evaluate", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAXDEC_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted: finished parts are kept" in err
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(".json")
    assert "**Tokens per call**" in done.stdout
