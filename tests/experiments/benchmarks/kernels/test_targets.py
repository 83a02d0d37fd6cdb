"""Targets are set for one device, and judged by the fastest of our backends."""

import pytest

from experiments.benchmarks.kernels.shapes import shapes
from experiments.benchmarks.kernels.sides import sides_of
from experiments.benchmarks.kernels.targets import TARGETS, KernelTarget, fastest, judge
from tests.experiments.benchmarks.kernels.synthetic import h200_document, kernel_document


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return h200_document(tmp_path_factory.mktemp("results"))


def test_the_fastest_of_ours(document):
    case = TARGETS[2].case
    assert fastest(document, case)["side"] == "jaxdec-hopper"
    assert (
        fastest({"rows": [row for row in document["rows"] if row["side"] != "jaxdec-hopper"]}, case)["side"]
        == "jaxdec-xla"
    )
    assert fastest({"rows": []}, case) is None


def test_verdicts_are_those_of_the_numbers(document):
    prefix, own, whole = judge(document)
    rows = {(row["case"], row["side"]): row["metrics"] for row in document["rows"]}
    ours = rows[TARGETS[0].case, "jaxdec-hopper"]
    assert prefix["measured"] == ours["fraction_of_floor"]["median"]
    assert own["measured"] == rows[TARGETS[1].case, "jaxdec-hopper"]["fraction_of_copy"]["median"]
    assert whole["measured"] == pytest.approx(12.0)  # 6 microseconds per row over 0.5
    assert (whole["bound"], whole["at_least"], whole["reached"], whole["loud_rounds"]) == (10.0, True, True, 0)
    for verdict, target in zip((prefix, own, whole), TARGETS):
        assert verdict["reached"] == (verdict["measured"] >= target.bound)
    assert document["targets"] == judge(document)


def test_other_devices_have_no_targets(document, tmp_path):
    assert kernel_document(tmp_path)["targets"] == []
    other = {**document, "environment": {**document["environment"], "device_kind": "NVIDIA H100 80GB HBM3"}}
    assert judge(other) == []


def test_what_is_missing_is_named(document):
    rows = [row for row in document["rows"] if row["side"] not in ("jax.nn-cudnn", "jaxdec-hopper", "jaxdec-xla")]
    prefix, _, whole = judge({**document, "rows": rows})
    assert prefix["reason"] == f"not measured (no {TARGETS[0].case} on any of our backends)"
    assert whole["reason"] == f"not measured (no {TARGETS[2].case} on jax.nn-cudnn)"
    assert {prefix["reached"], whole["reached"]} == {None}


def test_a_smoke_run_claims_nothing(document):
    assert {verdict["reached"] for verdict in judge({**document, "smoke": True})} == {None}


def test_bounds_are_inclusive(document):
    measured = judge(document)[2]["measured"]
    for bound, reached in ((measured, True), (measured + 1e-6, False)):
        target = KernelTarget("t", "H200", TARGETS[2].case, bound, against="jax.nn-cudnn")
        assert judge(document, (target,))[0]["reached"] is reached


def test_targets_name_what_the_suite_measures():
    measured = {shape.name: shape.operation for shape in shapes("gpu", smoke=False)}
    for target in TARGETS:
        assert target.case in measured
        assert bool(target.metric) != bool(target.against)
        assert not target.against or target.against in sides_of(measured[target.case])
