"""The tables of the report."""

import math
from typing import Any

from experiments.papers.block_retrieval.recorded import QUESTION
from experiments.papers.block_retrieval.results import Results
from experiments.papers.block_retrieval.texts import PLACES
from jaxdec.attention.sparse.actqkv import PROBES


def tables(results: Results) -> list[dict[str, Any]]:
    """All tables."""
    return [recall(results, False), recall(results, True), covered(results), shared(results), answers(results)]


def recall(results: Results, weighted: bool) -> dict[str, Any]:
    """The fact's block."""
    found = results.weighted if weighted else results.found
    header = ["question", "probe", *(f"{k} blocks" for k in results.budgets)]
    rows = [
        [place, probe, *(float(found(place, probe, k).mean()) for k in results.budgets)]
        for place in PLACES
        for probe in (*PROBES, QUESTION)
    ]
    rows.append(["", "at random", *(results.by_chance(k) for k in results.budgets)])
    how = ", weighted by the attention that it receives in them" if weighted else ""
    return {"title": f"Share of layers that ask for the fact's block{how}", "header": header, "rows": rows}


def covered(results: Results) -> dict[str, Any]:
    """Attention."""
    header = ["question", "probe", *(f"{k} blocks" for k in results.budgets)]
    rows = [
        [place, probe, *(float(results.covered(place, probe, k).mean()) for k in results.budgets)]
        for place in PLACES
        for probe in (*PROBES, QUESTION, "attention itself")
    ]
    title = "Share of the question's attention to blocks that lies in those asked for, mean over layers"
    return {"title": title, "header": header, "rows": rows}


def shared(results: Results) -> dict[str, Any]:
    """Budgets."""
    header = ["temperature", "blocks", "recall, equal budgets", "recall, dynamic", "fewest blocks", "most blocks"]
    rows = []
    for temperature in results.temperatures:
        for budget in results.budgets:
            found = results.shared(temperature, budget)
            ends = [int(found["blocks"].min()), int(found["blocks"].max())]
            rows.append(
                [float(temperature), budget, float(found["equal"].mean()), float(found["dynamic"].mean()), *ends]
            )
    return {"title": "Equal budgets and those that follow densities, activation probe", "header": header, "rows": rows}


def answers(results: Results) -> dict[str, Any]:
    """Whole passes."""
    header = ["read", "right", "of", "log-probability of the answer", "perplexity of the text", "tokens read"]
    after = results.without_blocks
    rows = [
        [
            arm,
            int(results.right(arm).sum()),
            results.right(arm).size,
            float(results.log_prob(arm).mean()),
            math.exp(results.surprisal(arm, after).mean()),
            results.read(arm),
        ]
        for arm in results.answers
    ]
    title = "Whole passes: answers chosen among all colours, and texts; tokens read as a share of everything"
    return {"title": title, "header": header, "rows": rows}
