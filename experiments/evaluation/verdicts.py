"""What speculative decoding should reach here, and whether a result reaches it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.evaluation.prompts import COPY_HEAVY
from experiments.evaluation.summary import ALL

Found = tuple[float, str]
"""A number, and where it was found."""
NGRAM_ARMS = ("prompt_lookup", "prompt_lookup_7", "lookahead", "suffix_retrieval", "aded_static", "aded_adaptive")
"""Drafters without a model of their own: ``draft_model`` pays for passes of one, which is no overhead but how it guesses."""


def judge(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold a result against all targets.

    Returns:
      A verdict each: ``measured`` and ``reached`` are None where it cannot be told, with the ``reason``; ``where`` says which
      arm and family the number is of. Smoke runs are not judged.
    """
    targets: Sequence[tuple[str, float, bool, Callable[[Mapping[str, Any]], Found | str]]] = (
        ("prompt lookup: tokens per call, lowest of the copy-heavy families", 2.0, True, _lookup_yield),
        ("ADED, static: tokens per call, lowest of all families", 1.3, True, _aded_yield),
        ("ADED: adaptive less static tokens per call, lowest of all families", 0.0, True, _aded_gain),
        ("best arm's speed-up, lowest of the copy-heavy families", 1.6, True, _best_speedup),
        ("speed-up with tree_size='auto', lowest of all families and arms", 0.95, True, _worst_auto),
        ("drafting without a model / target step, highest", 0.1, False, _drafting),
        ("best arm / llama.cpp's plain decoding, lowest of the copy-heavy families", 1.0, True, _over_llama),
    )
    verdicts = []
    for name, bound, at_least, measure in targets:
        found = "not measured (a smoke run claims nothing)" if document["smoke"] else measure(document)
        verdict: dict[str, Any] = {
            "name": name,
            "bound": bound,
            "at_least": at_least,
            "measured": None,
            "reached": None,
        }
        if isinstance(found, str):
            verdict |= {"reason": found, "where": ""}
        else:
            measured, where = found
            # A gain has to be one: 0 is not more than 0.
            reached = (measured > bound if bound == 0 else measured >= bound) if at_least else measured <= bound
            verdict |= {"measured": measured, "reached": reached, "reason": "", "where": where}
        verdicts.append(verdict)
    return verdicts


def _rows(document: Mapping[str, Any], arm: str, families: Sequence[str] | None = None) -> list[Mapping[str, Any]]:
    rows = [row for row in document["rows"] if row["arm"] == arm and row["family"] != ALL]
    return [row for row in rows if families is None or row["family"] in families]


def _extreme(numbers: Sequence[Found], what: str, pick: Any = min) -> Found | str:
    return pick(numbers, key=lambda pair: pair[0]) if numbers else f"not measured (no {what})"


def _lookup_yield(document: Mapping[str, Any]) -> Found | str:
    rows = _rows(document, "prompt_lookup_7", COPY_HEAVY)
    numbers = [(row["tokens_per_call"], f"{row['arm']}, {row['family']}") for row in rows]
    return _extreme(numbers, "prompt_lookup_7 on a copy-heavy family")


def _aded_yield(document: Mapping[str, Any]) -> Found | str:
    rows = _rows(document, "aded_static_63")
    return _extreme([(row["tokens_per_call"], f"{row['arm']}, {row['family']}") for row in rows], "aded_static_63")


def _aded_gain(document: Mapping[str, Any]) -> Found | str:
    static = {row["family"]: row["tokens_per_call"] for row in _rows(document, "aded_static_63")}
    numbers = [
        (row["tokens_per_call"] - static[row["family"]], f"63 nodes, {row['family']}")
        for row in _rows(document, "aded_adaptive_63")
        if row["family"] in static
    ]
    return _extreme(numbers, "aded_static_63 beside aded_adaptive_63")


def _best_speedup(document: Mapping[str, Any]) -> Found | str:
    best = []
    for family in COPY_HEAVY:
        speedups = [
            (row["speedup"]["mean"], f"{row['arm']}, {family}")
            for row in document["rows"]
            if row["family"] == family and row["arm"] != row["baseline"] and row.get("speedup")
        ]
        best += [max(speedups)] if speedups else []
    return _extreme(best, "speed-up on a copy-heavy family")


def _worst_auto(document: Mapping[str, Any]) -> Found | str:
    autos = [name for name, arm in document["arms"].items() if arm["auto"]]
    numbers = [
        (row["speedup"]["mean"], f"{row['arm']}, {row['family']}")
        for name in autos
        for row in _rows(document, name)
        if row.get("speedup")
    ]
    return _extreme(numbers, "arm with auto sizes")


def _drafting(document: Mapping[str, Any]) -> Found | str:
    costs = [
        (cost["share"], f"{cost['arm']}, {cost['prompt_tokens']} prompt tokens")
        for cost in document["drafting"]
        if cost["arm"] in NGRAM_ARMS
    ]
    return _extreme(costs, "drafting without a model", max)


def _over_llama(document: Mapping[str, Any]) -> Found | str:
    rows = [row for row in document["over_peer"] if row["family"] in COPY_HEAVY]
    best = []
    for family in COPY_HEAVY:
        ratios = [(row["ratio"]["mean"], f"{row['arm']}, {family}") for row in rows if row["family"] == family]
        best += [max(ratios)] if ratios else []
    return _extreme(best, "llama.cpp on a copy-heavy family")
