"""The suite with made-up engines: floors, sides that share a process, what is refused, and going on after Ctrl-C."""

import json

import pytest

from experiments.benchmarks.kernels import suite
from experiments.benchmarks.kernels.shapes import KernelShape, work
from experiments.benchmarks.kernels.suite import SideOfWorker, cases, floor_microseconds, separate_sides
from experiments.benchmarks.suite import Options
from tests.experiments.benchmarks.kernels.synthetic import (
    CEILING,
    JAX_SIDES,
    FakeProcess,
    kernel_document,
    kernel_session,
    run_kernels,
)
from tests.experiments.benchmarks.synthetic import console


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return kernel_document(tmp_path_factory.mktemp("results"))


def test_sides_of_a_process_are_asked_by_name():
    session = kernel_session()
    jax = session.workers["jax"]
    separate_sides(session)
    assert set(session.workers) == {"device", "jaxdec-xla", "copied-xla", "jax.nn-xla", "torch-sdpa"}
    assert {worker.worker for side, worker in session.workers.items() if side != "torch-sdpa"} == {jax}
    assert session.peers >= {"torch-sdpa", "flashinfer"}
    assert "jax.nn-xla" not in session.peers  # it dies with ours
    assert session.absent == [
        {"side": "jaxdec-hopper", "reason": "runs on gpu, and jax sees cpu"},
        {"side": "flashinfer", "reason": "not installed: flashinfer"},
    ]
    assert session.description("jaxdec-xla")["engine"] == "jaxdec"
    assert session.description("jax.nn-xla")["engine"] == "jax"
    assert "sides" not in session.description("jaxdec-xla")
    session.workers["copied-xla"].close(0.5)
    assert jax.closed == [0.5]


def test_only_what_needs_the_side_is_told_it():
    class Echo:
        def __init__(self):
            self.description = {"engines": {}, "sides": {}}

        def call(self, method, **arguments):
            return arguments

    side = SideOfWorker(Echo(), "ours")
    assert side.call("measure", a=1) == {"side": "ours", "a": 1}
    assert side.call("warm_up") == {"side": "ours"}
    assert side.call("environment") == {}


def test_rows_carry_shape_work_and_difference(document):
    for row in document["rows"]:
        assert row["dtype"] == "float32"
        if row["side"] == "device":
            assert row["engine"] == "jaxdec"
            continue
        shape = KernelShape.of(row)
        assert shape.name == row["case"]
        assert (row["bytes"], row["flops"]) == tuple(work(shape, row["side"]))
        assert (row["difference"], row["compile_seconds"]) == (1e-6, 2.5)
    assert document["clock"] == "host"
    assert document["host"] == "test-2t"
    assert {row["side"]: row["engine"] for row in document["rows"]}["jax.nn-xla"] == "jax"


def test_floors_are_taken_round_by_round(tmp_path, monkeypatch):
    drifting = iter([1.0, 2.0, 4.0])
    plain = FakeProcess.call

    def call(self, method, side="", **arguments):
        said = plain(self, method, side, **arguments)
        if side == "device" and method == "measure":
            factor = next(drifting)
            return {name: factor * value for name, value in said.items()}
        return said

    monkeypatch.setattr(FakeProcess, "call", call)
    document = kernel_document(tmp_path)
    row = next(row for row in document["rows"] if row.get("operation") == "whole_attention" and row["batch"] == 1)
    assert row["side"] == "jaxdec-xla"
    times = row["metrics"]["microseconds"]["samples"]
    assert times == pytest.approx([1.0, 1.25, 1.5])
    for index, factor in enumerate((1.0, 2.0, 4.0)):
        floor = max(row["bytes"] / (200e9 * factor), row["flops"] / (1000e9 * factor)) * 1e6
        assert row["metrics"]["floor_microseconds"]["samples"][index] == pytest.approx(floor)
        assert row["metrics"]["fraction_of_floor"]["samples"][index] == pytest.approx(floor / times[index])
        rate = row["bytes"] / times[index] * 1e6 / 1e9
        assert row["metrics"]["gigabytes_per_second"]["samples"][index] == pytest.approx(rate)
        assert row["metrics"]["fraction_of_copy"]["samples"][index] == pytest.approx(rate / (100 * factor))
        assert row["metrics"]["gigaflops_per_second"]["samples"][index] == pytest.approx(
            row["flops"] / times[index] / 1e3
        )


def test_the_floor_is_the_longer_of_two_times():
    assert floor_microseconds(200_000, 0, CEILING) == pytest.approx(1.0)  # at the faster of copying and reading
    assert floor_microseconds(0, 3_000_000, CEILING) == pytest.approx(3.0)
    assert floor_microseconds(200_000, 3_000_000, CEILING) == pytest.approx(3.0)
    assert floor_microseconds(800_000, 3_000_000, CEILING) == pytest.approx(4.0)
    slow_reads = {**CEILING, "read_gigabytes_per_second": 50.0}
    assert floor_microseconds(200_000, 0, slow_reads) == pytest.approx(2.0)


def test_a_refusal_leaves_a_side_out_of_these_cases_alone(tmp_path):
    session = kernel_session(refuses={("prefix_attention", "jax.nn-xla"): "too wide"})
    session.console, text = console()
    document = kernel_document(tmp_path, session)
    prefix = [case.name for case in cases("cpu", smoke=False) if case.name.startswith("prefix_attention")]
    assert document["refused"] == [{"case": name, "side": "jax.nn-xla", "reason": "too wide"} for name in prefix]
    assert f"refused: {prefix[0]} on jax.nn-xla: too wide" in text.getvalue()
    measured = {(row["case"], row["side"]) for row in document["rows"]}
    assert not {(name, "jax.nn-xla") for name in prefix} & measured
    assert (prefix[0].replace("prefix", "decode"), "jax.nn-xla") in measured
    for row in document["rows"]:
        assert (row["case"] in prefix) <= ("jax.nn-xla" not in row["ratios"])


def test_ctrl_c_keeps_what_was_measured(tmp_path, monkeypatch):
    first = kernel_session()
    plain = FakeProcess.call

    def interrupted(self, method, side="", **arguments):
        if method == "measure" and self.rounds and len(self.rounds) == 4:
            raise KeyboardInterrupt
        return plain(self, method, side, **arguments)

    monkeypatch.setattr(FakeProcess, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_kernels(tmp_path, first)
    monkeypatch.setattr(FakeProcess, "call", plain)
    (partial,) = tmp_path.iterdir()
    kept = json.loads(partial.read_text())["attempts"]
    second = kernel_session()
    second.console, text = console()
    path = run_kernels(tmp_path, second)
    assert f"continuing after {len(kept)} attempts" in text.getvalue()
    assert path.name == "kernels_test-2t_2026-01-02.json"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_cases(platform):
    found = cases(platform, smoke=False)
    assert found[0].sides == ("device",)
    assert {case.metric for case in found[1:]} == {"microseconds"}
    for case in found:
        json.dumps(case.arguments)
        assert case.arguments["dtype"] == ("float32" if platform == "cpu" else "bfloat16")


@pytest.mark.parametrize(("platform", "reason"), [("gpu", "runs on cpu here, and jax on gpu"), ("cpu", None)])
def test_a_peer_on_another_device_is_no_peer(tmp_path, monkeypatch, platform, reason):
    session = kernel_session(platform=platform, device="NVIDIA H200" if platform == "gpu" else "cpu")
    torch = session.workers["torch"]
    given = []

    class Opened:
        def __enter__(self):
            return session

        def __exit__(self, *exception):
            return False

    monkeypatch.setattr(suite, "open_session", lambda sides, console: given.extend(sides) or Opened())
    monkeypatch.setattr(suite, "missing_packages", lambda: ["torch"])
    document = json.loads(suite.run(Options(out=tmp_path, rounds=1), console()[0]).read_text())
    assert [(side.name, side.peer, bool(side.missing)) for side in given] == [
        ("jax", False, False),
        ("torch", True, True),
    ]
    assert ({"side": "torch", "reason": reason} in document["absent"]) is (reason is not None)
    assert bool(torch.closed) is (reason is not None)
    assert ("torch-sdpa" in {row["side"] for row in document["rows"]}) is (reason is None)
    assert document["host"].startswith("nvidia-h200") is (platform == "gpu")


def test_all_sides_of_the_engine_are_known_to_the_cases():
    known = {side for case in cases("cpu", smoke=False) for side in case.sides}
    assert set(JAX_SIDES) - {"jaxdec-hopper"} <= known
