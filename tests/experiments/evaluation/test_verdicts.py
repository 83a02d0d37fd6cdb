"""Targets, held against results with known numbers."""

import pytest

from experiments.evaluation.verdicts import judge
from tests.experiments.evaluation.synthetic import document

NAMES = ("lookup", "aded", "gain", "best", "auto", "drafting", "llama")


def verdicts(**changes):
    return dict(zip(NAMES, judge(document(**changes))))


def changed(field, value, **where):
    """Rows of which those that match ``where`` have another value."""
    rows = document()["rows"]
    for row in rows:
        if all(row[name] == wanted for name, wanted in where.items()):
            row[field] = value
    return rows


def test_all_reached_and_where_the_numbers_are_from():
    found = verdicts()
    assert [verdict["reached"] for verdict in found.values()] == [True] * 7
    measured = {name: (round(verdict["measured"], 6), verdict["where"]) for name, verdict in found.items()}
    assert measured["lookup"] == (2.5, "prompt_lookup_7, summarise")
    assert measured["aded"] == (1.4, "aded_static_63, chat")
    assert measured["gain"] == (0.1, "63 nodes, chat")
    assert measured["best"] == (1.7, "prompt_lookup, summarise")
    assert measured["auto"] == (0.96, "aded_adaptive, chat")
    assert measured["drafting"] == (0.05, "aded_static, 40 prompt tokens")  # and not the draft model's 1.5
    assert measured["llama"] == (1.05, "prompt_lookup, edit")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lookup", {"rows": changed("tokens_per_call", 1.99, arm="prompt_lookup_7", family="extract")}),
        ("aded", {"rows": changed("tokens_per_call", 1.29, arm="aded_static_63", family="chat")}),
        ("gain", {"rows": changed("tokens_per_call", 1.4, arm="aded_adaptive_63", family="edit")}),
        ("best", {"rows": changed("speedup", {"mean": 1.5}, arm="prompt_lookup", family="edit")}),
        ("auto", {"rows": changed("speedup", {"mean": 0.94}, arm="suffix_retrieval", family="chat")}),
        ("llama", {"over_peer": [{"family": "edit", "arm": "prompt_lookup", "ratio": {"mean": 0.9}}]}),
    ],
)
def test_one_number_that_is_too_low_is_found(name, changes):
    found = verdicts(**changes)
    assert [other for other, verdict in found.items() if verdict["reached"] is False] == [name]


def test_dear_drafting_is_found():
    cost = {"arm": "lookahead", "prompt_tokens": 9, "share": 0.11}
    assert verdicts(drafting=[*document()["drafting"], cost])["drafting"]["reached"] is False


def test_families_that_are_not_copied_from_do_not_count_where_they_should_not():
    slow = changed("tokens_per_call", 1.0, arm="prompt_lookup_7", family="chat")
    assert verdicts(rows=slow)["lookup"]["reached"] is True
    slow = changed("speedup", {"mean": 0.9}, arm="draft_model", family="chat")  # it has no auto sizes
    assert verdicts(rows=slow)["auto"]["reached"] is True


def test_what_is_missing_is_said_and_not_judged():
    found = verdicts(over_peer=[], drafting=[], rows=[row for row in document()["rows"] if row["family"] == "chat"])
    assert found["llama"]["reached"] is None
    assert found["llama"]["reason"] == "not measured (no llama.cpp on a copy-heavy family)"
    assert found["lookup"]["reason"].startswith("not measured (no prompt_lookup_7")
    assert found["best"]["measured"] is None


def test_a_smoke_run_claims_nothing():
    assert {verdict["measured"] for verdict in verdicts(smoke=True).values()} == {None}
