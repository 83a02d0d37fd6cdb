"""The report says what the metrics say, and metrics that lack something are refused."""

import copy

import pytest

from experiments.benchmarks.papers_page import papers_page
from experiments.papers.report import check_metrics, report, without_verdicts
from experiments.record import write_json

METRICS = {
    "title": "A Paper",
    "source": "arXiv 1234.56789",
    "files": ["jaxdec/decoding/loop.py"],
    "guarantee": "bitwise",
    "claims": [
        {"claim": "it is faster", "paper": "2.0 times", "measured": "1.9 times", "reproduced": True, "reason": None},
        {"claim": "it is better", "paper": "+3", "measured": "-1 | -2", "reproduced": False, "reason": "another task"},
        {"claim": "it is nicer", "paper": "said so", "measured": "+0 [-1, +1]", "reproduced": None, "reason": "noise"},
    ],
    "tables": [{"title": "Arms", "header": ["arm", "score"], "rows": [["a", 0.123456], ["b", None]]}],
    "figures": [{"file": "curve.svg", "caption": "A curve."}],
    "notes": ["Take care."],
    "seconds": 61.4,
}
ADDED = {
    "paper": "a_paper",
    "command": "python -m experiments.reproduce --paper=a_paper",
    "smoke": False,
    "config": {"seed": 0},
    "environment": {
        "cpu_model": "Some CPU",
        "cores": 2,
        "device_kind": "cpu",
        "jax": "0.10",
        "date": "today",
        "commit": "abc",
        "dirty": True,
    },
}


def test_claims_stand_beside_measurements():
    check_metrics(METRICS)
    text = report(METRICS | ADDED)
    assert "| it is faster | 2.0 times | 1.9 times | yes | - |" in text
    assert r"| it is better | +3 | -1 \| -2 | **no** | another task |" in text
    assert "| it is nicer | said so | +0 [-1, +1] | open | noise |" in text
    assert "| a | 0.123 |\n| b | - |" in text
    assert "![A curve.](curve.svg)" in text
    assert "61 s of computing on Some CPU, 2 cores, cpu; jax 0.10; today; commit abc with changes." in text
    for piece in ("A Paper", "arXiv 1234.56789", "- Take care.", "    python -m experiments.reproduce --paper=a_paper"):
        assert piece in text


def test_the_papers_page_can_read_it(tmp_path):
    write_json(tmp_path / "a_paper" / "metrics.json", METRICS | ADDED)
    page = papers_page(tmp_path)
    assert "1 of 3" in page
    assert "| it is faster | 1.9 times | yes |" in page


def test_a_smoke_run_judges_nothing():
    smoke = without_verdicts(METRICS)
    assert [claim["reproduced"] for claim in smoke["claims"]] == [None] * 3
    assert [claim["measured"] for claim in smoke["claims"]] == [claim["measured"] for claim in METRICS["claims"]]
    assert "smoke run: too small to judge" in report(smoke | ADDED)
    assert METRICS["claims"][0]["reproduced"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("title"), r"metrics\['title'\] must be a text, got None"),
        (lambda m: m.pop("notes"), r"metrics\['notes'\] must be a list, got None"),
        (lambda m: m.pop("seconds"), r"metrics\['seconds'\] must be a number, got None"),
        (lambda m: m["claims"][0].pop("paper"), r"each must have claim, measured, paper, reason, reproduced"),
        (lambda m: m["claims"][0].update(reproduced="yes"), "reproduced must be true, false or null, got 'yes'"),
        (lambda m: m["claims"][1].update(reason=None), "'it is better' did not reproduce, and no reason is given"),
        (lambda m: m["claims"][2].update(reason=""), "'it is nicer' did not reproduce, and no reason is given"),
        (
            lambda m: m["tables"][0].update(color="red"),
            r"metrics\['tables'\] has .* each must have header, rows, title",
        ),
    ],
)
def test_what_is_missing_is_named(change, message):
    metrics = copy.deepcopy(METRICS)
    change(metrics)
    with pytest.raises(ValueError, match=message):
        check_metrics(metrics)
