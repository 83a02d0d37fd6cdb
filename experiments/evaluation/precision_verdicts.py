"""What is asked of a low-precision model here: perplexity within one percent of float32's."""

from collections.abc import Mapping
from typing import Any

from experiments.evaluation.precision_quality import ALL

LARGEST_CHANGE = 0.01
"""Ours, from no paper."""


def judge(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A verdict per low-precision dtype, in the form of :func:`experiments.evaluation.verdicts.judge`.

    The size of the change counts: a perplexity that falls tells of another model too. Smoke runs are not judged.
    """
    verdicts = []
    for dtype in document["weights_bytes"]:
        if dtype == document["reference"]:
            continue
        verdict: dict[str, Any] = {
            "name": f"{dtype}: size of the change of perplexity, all texts",
            "bound": LARGEST_CHANGE,
            "at_least": False,
            "measured": None,
            "reached": None,
            "reason": "",
            "where": "",
        }
        if document["smoke"]:
            verdict["reason"] = "not measured (a smoke run claims nothing)"
        elif document["quality"] is None:
            verdict["reason"] = "not measured (timing alone)"
        else:
            row = next(r for r in document["quality"]["rows"] if (r["source"], r["dtype"]) == (ALL, dtype))
            change = row["change"]
            measured = abs(change["mean"])
            verdict |= {"measured": measured, "reached": measured <= LARGEST_CHANGE}
            verdict["where"] = f"95 % interval {change['low']:+.2%} to {change['high']:+.2%}"
        verdicts.append(verdict)
    return verdicts
