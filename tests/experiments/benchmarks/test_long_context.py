"""The suite of long contexts: what it asks for, what it judges, what it shows, and a run on a tiny model."""

import json

import pytest

from experiments.benchmarks.long_context import page
from experiments.benchmarks.long_context.engine import RuleEngine
from experiments.benchmarks.long_context.suite import (
    BLOCKS,
    DENSE,
    PREFILLS,
    QUEST,
    STEPS,
    TARGETS,
    cases,
    complete,
    sides,
)
from jaxdec.context_rules import attention_rule

ENVIRONMENT = {"device_kind": "cpu", "cores": 2}


def document(times, smoke=False):
    rows = [
        {
            "case": case.name,
            "side": side,
            "metrics": {
                "milliseconds": {
                    "median": times[side],
                    "min": times[side],
                    "max": times[side],
                    "samples": [times[side]] * 3,
                },
                "cache_megabytes": {"median": 1.0, "min": 1.0, "max": 1.0, "samples": [1.0] * 3},
            },
            "compile_seconds": 1.0,
            "foreign_load": None,
            "loud_rounds": 0,
            "rounds": 3,
        }
        for case in cases(smoke=smoke)
        for side in case.sides
    ]
    found = {
        "rows": rows,
        "smoke": smoke,
        "host": "host",
        "date": "2000-01-01",
        "environment": ENVIRONMENT,
        "rounds": 3,
    }
    complete(found, None)
    return {**found, "stem": "long_context_host_2000-01-01"}


def test_rules_are_those_that_their_names_say():
    rules = sides(16384, 64)
    assert set(STEPS) | set(PREFILLS) == set(rules)
    assert attention_rule(rules[QUEST]["attention"]).budget == 1024
    assert attention_rule(rules[BLOCKS]["attention"]).sparsity(16384) == pytest.approx(7 / 8, abs=2e-3)


def test_targets_are_judged_by_rounds():
    times = dict.fromkeys(sides(16384, 64), 10.0)
    verdicts = document({**times, QUEST: 3.0, BLOCKS: 4.0})["targets"]
    assert len(verdicts) == len(TARGETS) == 4
    assert [verdict["reached"] for verdict in verdicts] == [True, True, False, False]
    assert verdicts[0]["measured"] == pytest.approx(10 / 3)
    assert [entry["reached"] for entry in document(times, smoke=True)["targets"]] == [None] * 4


def test_page_and_figure(tmp_path):
    found = document({**dict.fromkeys(sides(16384, 64), 10.0), QUEST: 2.5})
    text = page.long_context_section(found)
    assert "| step, 1 rows | quest, 1/16 | 2.5 (2.5 to 2.5) | 4.00 | 1 | 1.0 | unknown | 0 of 3 |" in text
    page.draw(found, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == page.names(found)
    assert "times faster than dense" in (tmp_path / page.names(found)[0]).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4))
def test_the_engine_times_every_case(tmp_path, index):
    engine = RuleEngine("", smoke=True, folder=str(tmp_path))
    case = cases(smoke=True)[index]
    arguments = json.loads(json.dumps(case.arguments))
    for side in case.sides:
        assert engine.warm_up(side=side, **arguments)["compile_seconds"] > 0
        found = engine.measure(side=side, **arguments)
        assert found["milliseconds"] > 0
        assert (found["cache_megabytes"] > 0) == (case.arguments["kind"] == "step")
    assert DENSE in case.sides
