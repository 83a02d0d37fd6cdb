"""Sides that take part or are absent, and results that are written whole."""

import json
import os

import pytest

from experiments.benchmarks import suite
from experiments.benchmarks.harness import Case
from experiments.benchmarks.suite import Options, Side, open_session, present
from experiments.benchmarks.worker_process import WorkerError
from tests.experiments.benchmarks.synthetic import ENVIRONMENT, FakeWorker, console, cpu_session, run_cpu

SIDES = [
    Side("ours", "m:Ours", {"a": 1}),
    Side("peer", "m:Peer", {}, peer=True),
    Side("other", "m:Other", {}, peer=True, missing="not installed: torch"),
]


@pytest.fixture
def started(monkeypatch):
    """Workers started so far, by side; ``broken`` holds the sides that do not load."""
    workers: dict[str, FakeWorker] = {}
    broken: set[str] = set()

    def start(name, target, options):
        if name in broken:
            raise WorkerError(f"worker {name} died with status 1: no weights\nTraceback")
        workers[name] = FakeWorker(name)
        return workers[name]

    monkeypatch.setattr(suite, "WorkerProcess", start)
    return workers, broken


def test_a_missing_peer_is_reported_and_not_started(started):
    workers, _ = started
    screen, text = console()
    with open_session(SIDES, screen) as session:
        assert set(session.workers) == set(workers) == {"ours", "peer"}
        assert session.absent == [{"side": "other", "reason": "not installed: torch"}]
        assert session.peers == {"peer", "other"}
    assert "absent: other: not installed: torch" in text.getvalue()
    assert [worker.closed for worker in workers.values()] == [[5.0], [5.0]]


def test_a_peer_that_does_not_load_is_absent_with_the_first_line_of_the_reason(started):
    _, broken = started
    broken.add("peer")
    with open_session(SIDES, console()[0]) as session:
        assert session.absent[0] == {"side": "peer", "reason": "worker peer died with status 1: no weights"}
        assert set(session.workers) == {"ours"}


def test_our_own_engine_must_load_and_nothing_stays_behind(started):
    workers, broken = started
    broken.add("ours")
    reversed_sides = SIDES[::-1]
    with pytest.raises(WorkerError, match="worker ours died"), open_session(reversed_sides, console()[0]):
        raise AssertionError("not reached")
    assert workers["peer"].closed


@pytest.mark.parametrize("error", [KeyboardInterrupt, WorkerError])
def test_after_an_interruption_workers_are_killed_at_once(started, error):
    workers, _ = started
    with pytest.raises(error), open_session(SIDES, console()[0]):
        raise error
    assert [worker.closed[0] for worker in workers.values()] == [0.0, 0.0]


def test_present_drops_absent_sides_and_empty_cases():
    cases = [Case("one", ("a", "b"), "rate"), Case("two", ("b",), "rate")]
    assert present(cases, {"a": FakeWorker("a")}) == [Case("one", ("a",), "rate")]
    both = {"a": FakeWorker("a"), "b": FakeWorker("b")}
    assert present(cases, both, {("one", "b"), ("two", "b")}) == [Case("one", ("a",), "rate")]


def test_rows_can_be_read_alone(tmp_path):
    document = json.loads(run_cpu(tmp_path, cpu_session()).read_text())
    assert len(document["rows"]) == 5 + 5 + 2 + 1
    for row in document["rows"]:
        assert row["tokens_per_call"] == 1.0
        assert row["compile_seconds"] == 2.5
        assert (row["jax"], row["commit"]) == ("0.10.2", "c" * 40)
        assert row["hardware"] == {
            name: ENVIRONMENT[name] for name in ("device_kind", "cpu_model", "cpu_flags", "cores")
        }
        assert row["peak_rss_bytes"] == 700_000_000
        assert row["peak_rss_since"] == ("start" if row["side"] == "llama.cpp" else "warm-up")
        assert (row["rounds"], row["loud_rounds"], row["suite"]) == (3, 0, "cpu_decode")
    decode = document["rows"][0]
    assert (decode["case"], decode["side"], decode["engine"], decode["dtype"]) == (
        "decode", "jaxdec-float32", "jaxdec", "float32",
    )  # fmt: skip
    assert (decode["prompt_tokens"], decode["new_tokens"], decode["batch"]) == (3, 6, 1)
    assert decode["metrics"]["tokens_per_second"]["samples"] == pytest.approx([50.0, 50.5, 51.0])
    assert decode["ratios"]["transformers-float32"]["samples"] == pytest.approx([2.5] * 3)
    assert document["environment"] == ENVIRONMENT
    assert document["date"] == "2026-01-02"
    assert document["engines"]["llama.cpp"]["version"] == "llama.cpp 1.0"


def test_the_file_is_named_after_suite_machine_and_date_and_the_partial_record_is_gone(tmp_path):
    assert run_cpu(tmp_path, cpu_session()).name == "cpu_decode_test-2t_2026-01-02.json"
    assert run_cpu(tmp_path, cpu_session(), smoke=True).name == "cpu_decode_smoke_test-2t_2026-01-02.json"
    assert len(os.listdir(tmp_path)) == 2


def test_a_peer_that_cannot_do_a_case_is_absent_from_all(tmp_path):
    broken = FakeWorker("llama.cpp", fails=("warm_up",))
    session = cpu_session(**{"llama.cpp": broken})
    document = json.loads(run_cpu(tmp_path, session).read_text())
    assert document["absent"] == [{"side": "llama.cpp", "reason": "worker llama.cpp: broken"}]
    assert "llama.cpp" not in {row["side"] for row in document["rows"]}
    assert "llama.cpp" not in document["rows"][0]["ratios"]
    assert broken.closed
    assert [method for method, _ in broken.calls] == ["warm_up"]


def test_a_refused_case_is_left_out_and_the_side_goes_on(tmp_path):
    class Picky(FakeWorker):
        def call(self, method, **arguments):
            said = super().call(method, **arguments)
            return {"refused": "too long"} if method == "warm_up" and arguments.get("kind") == "prefill" else said

    session = cpu_session(**{"llama.cpp": Picky("llama.cpp")})
    session.console, text = console()
    document = json.loads(run_cpu(tmp_path, session).read_text())
    assert document["refused"] == [{"case": "prefill", "side": "llama.cpp", "reason": "too long"}]
    assert document["absent"] == []
    assert "refused: prefill on llama.cpp: too long" in text.getvalue()
    assert [row["case"] for row in document["rows"] if row["side"] == "llama.cpp"] == ["decode"]
    assert "llama.cpp" not in next(row for row in document["rows"] if row["case"] == "prefill")["ratios"]


@pytest.mark.parametrize("method", ["warm_up", "measure"])
def test_our_own_failure_is_an_error_and_no_result(tmp_path, method):
    session = cpu_session(**{"jaxdec-bfloat16": FakeWorker("jaxdec-bfloat16", fails=(method,))})
    with pytest.raises(WorkerError, match="worker jaxdec-bfloat16: broken"):
        run_cpu(tmp_path, session)
    assert not list(tmp_path.glob("cpu_decode_*.json"))


def test_without_peers(tmp_path):
    session = cpu_session("transformers-float32", "transformers-bfloat16", "llama.cpp")
    document = json.loads(run_cpu(tmp_path, session).read_text())
    assert [entry["side"] for entry in document["absent"]] == [
        "transformers-float32", "transformers-bfloat16", "llama.cpp",
    ]  # fmt: skip
    assert "agreement" not in document
    assert {verdict["reached"] for verdict in document["targets"]} == {None, True}


def test_warming_up_precedes_measuring(tmp_path):
    session = cpu_session()
    run_cpu(tmp_path, session, rounds=1)
    methods = [method for method, _ in session.workers["jaxdec-float32"].calls]
    assert methods == ["warm_up"] * 3 + ["environment"] + ["measure"] * 3
    kinds = [arguments["kind"] for method, arguments in session.workers["llama.cpp"].calls if method == "measure"]
    assert kinds == ["decode", "prefill"]


def test_ctrl_c_keeps_what_was_measured_and_the_same_run_goes_on(tmp_path):
    interrupted = cpu_session(**{"command": FakeWorker("command", interrupt_at=1)})
    with pytest.raises(KeyboardInterrupt):
        run_cpu(tmp_path, interrupted)
    (partial,) = tmp_path.iterdir()
    kept = json.loads(partial.read_text())["attempts"]
    assert [(entry["case"], entry["round"]) for entry in kept] == [
        ("decode", 0), ("prefill", 0), ("step_cost", 0), ("cold_start", 0),
        ("decode", 1), ("prefill", 1), ("step_cost", 1),
    ]  # fmt: skip
    session = cpu_session()
    screen, text = console()
    session.console = screen
    document = json.loads(run_cpu(tmp_path, session).read_text())
    assert "continuing after 7 attempts" in text.getvalue()
    row = document["rows"][0]
    assert row["metrics"]["tokens_per_second"]["samples"] == pytest.approx([50.0, 50.5, 50.0])  # two kept, one new
    assert session.workers["jaxdec-float32"].measured["decode"] == 1
    assert not partial.exists()


@pytest.mark.parametrize("what", ["sources", "commit", "host", "absent", "cases"])
def test_what_was_measured_under_other_conditions_is_not_continued(tmp_path, monkeypatch, what):
    with pytest.raises(KeyboardInterrupt):
        run_cpu(tmp_path, cpu_session(**{"command": FakeWorker("command", interrupt_at=1)}))
    session = cpu_session("llama.cpp") if what == "absent" else cpu_session()
    if what == "sources":
        monkeypatch.setattr(suite, "sources_digest", lambda: "edited")
    elif what == "commit":
        monkeypatch.setitem(ENVIRONMENT, "commit", "d" * 40)
    elif what == "host":
        session.workers["jaxdec-float32"].description["threads"] = 64
    elif what == "cases":
        monkeypatch.setattr("experiments.benchmarks.cpu_decode.OURS", ("jaxdec-float32",))
    run_cpu(tmp_path, session)
    assert session.workers["jaxdec-float32"].measured["decode"] == 3


def test_load_times_and_memory_do_not_hinder_a_continuation(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_cpu(tmp_path, cpu_session(**{"command": FakeWorker("command", interrupt_at=1)}))
    session = cpu_session()
    for worker in session.workers.values():
        worker.description |= {"load_seconds": 99.0, "load_peak_rss_bytes": 1}
    run_cpu(tmp_path, session)
    assert session.workers["jaxdec-float32"].measured["decode"] == 1


def test_without_a_terminal_every_attempt_is_a_line(tmp_path):
    session = cpu_session()
    session.console, text = console()
    run_cpu(tmp_path, session, rounds=2)
    lines = [line for line in text.getvalue().splitlines() if line.startswith("measured")]
    assert len(lines) == 8
    assert lines[0].startswith("measured decode round 1 of 2")
    assert lines[-1].startswith("measured cold_start round 2 of 2")


def test_options_have_the_documented_defaults(tmp_path):
    options = Options(out=tmp_path, rounds=7)
    assert (options.smoke, options.repeats, options.wait_quiet) == (False, 2, 0.0)
