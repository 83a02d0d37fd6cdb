"""Verdicts follow from the numbers of a result."""

import pytest

from experiments.benchmarks.targets import TARGETS, Target, judge, way_to_bfloat16
from tests.experiments.benchmarks.synthetic import cpu_document

BY_NAME = {target.name: target for target in TARGETS}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return cpu_document(tmp_path_factory.mktemp("results"))


def verdicts(document):
    return {verdict["name"]: verdict for verdict in judge(document)}


def rows_of(document, *names):
    return [row for row in document["rows"] if (row["case"], row["side"]) in names]


def test_every_target_is_measured_where_everything_is_there(document):
    measured = {name: verdict["measured"] for name, verdict in verdicts(document).items()}
    assert measured == pytest.approx(
        {
            "decoding, float32: ours / transformers": 2.5,
            "prefill: ours float32 / llama.cpp": 2.0,
            "prefill, float32: ours / transformers": 4 / 3,
            "prefill, bfloat16: share of the way from our float32 to PyTorch's bfloat16": 0.5,
            "one-token step, float32 / reading the weights once": 1.1,
            "cold start to the first text, seconds": 4.04,
            "peak memory of the command / float32 weights": 2.0,
        }
    )
    reached = [verdict["reached"] for verdict in judge(document)]
    assert reached == [True, True, True, False, True, True, True]
    assert {verdict["loud_rounds"] for verdict in judge(document)} == {0}
    assert {verdict["reason"] for verdict in judge(document)} == {""}


def simple(measure=lambda rows, document: 2.0, **fields):
    return Target("t", 2.0, True, (("decode", "jaxdec-float32"),), measure, **fields)


@pytest.mark.parametrize(
    ("at_least", "measured", "reached"),
    [(True, 2.0, True), (True, 1.99, False), (True, 2.01, True), (False, 2.0, True), (False, 1.99, True), (False, 2.01, False)],
)  # fmt: skip
def test_bounds_are_inclusive(document, at_least, measured, reached):
    target = Target("t", 2.0, at_least, (("decode", "jaxdec-float32"),), lambda rows, document: measured)
    (verdict,) = judge(document, [target])
    assert (verdict["measured"], verdict["reached"], verdict["bound"]) == (measured, reached, 2.0)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("decoding, float32: ours / transformers", "decode on transformers-float32"),
        ("prefill: ours float32 / llama.cpp", "prefill on llama.cpp"),
        ("cold start to the first text, seconds", "cold_start on command"),
        ("one-token step, float32 / reading the weights once", "step_cost on jaxdec-float32"),
    ],
)
def test_what_is_absent_is_not_measured_and_says_what_is_missing(document, name, missing):
    kept = [row for row in document["rows"] if f"{row['case']} on {row['side']}" != missing]
    verdict = verdicts({**document, "rows": kept})[name]
    assert (verdict["measured"], verdict["reached"], verdict["loud_rounds"]) == (None, None, None)
    assert verdict["reason"] == f"not measured (no {missing})"


def test_bfloat16_is_no_target_where_pytorch_gains_nothing(document):
    name = "prefill, bfloat16: share of the way from our float32 to PyTorch's bfloat16"
    rows = [
        {**row, "metrics": {"tokens_per_second": {"median": 60.0}}} if row["side"] == "transformers-bfloat16" else row
        for row in document["rows"]
    ]
    verdict = verdicts({**document, "rows": rows})[name]
    assert (verdict["measured"], verdict["reached"]) == (None, None)
    assert verdict["reason"] == "PyTorch's bfloat16 is slower than our float32 here"


def test_the_way_to_bfloat16(document):
    def row(rate):
        return {"metrics": {"tokens_per_second": {"median": rate}}}

    assert way_to_bfloat16([row(100.0), row(170.0), row(200.0)], document) == pytest.approx(0.7)
    assert way_to_bfloat16([row(100.0), row(90.0), row(200.0)], document) == pytest.approx(-0.1)


def test_a_smoke_run_claims_nothing(tmp_path):
    for verdict in judge(cpu_document(tmp_path, smoke=True)):
        assert (verdict["measured"], verdict["reached"]) == (None, None)
        assert verdict["reason"] == "not measured (a smoke run claims nothing)"


def test_a_verdict_counts_the_loud_rounds_behind_it(document):
    rows = [{**row, "loud_rounds": 2 if row["side"] == "transformers-float32" else 1} for row in document["rows"]]
    loud = {name: verdict["loud_rounds"] for name, verdict in verdicts({**document, "rows": rows}).items()}
    assert loud["decoding, float32: ours / transformers"] == 2
    assert loud["prefill: ours float32 / llama.cpp"] == 1


def test_a_mistake_in_a_target_is_no_missing_measurement(document):
    broken = simple(lambda rows, document: rows[0]["metrics"]["no_such_metric"]["median"])
    with pytest.raises(KeyError):
        judge(document, [broken])


def test_targets_name_rows_that_the_suite_measures(document):
    known = {(row["case"], row["side"]) for row in document["rows"]}
    assert {name for target in TARGETS for name in target.rows} <= known
