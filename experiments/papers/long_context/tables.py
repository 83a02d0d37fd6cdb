"""Tables of the replica."""

import statistics
from typing import Any

from experiments.papers.long_context.iso_flops import points
from experiments.papers.long_context.results import Results
from experiments.papers.long_context.swept_rules import DECODE, PREFILL
from jaxdec.evaluation.long_context.token_tasks import TASKS

PHASES = {"prefill": PREFILL, "decode": DECODE}


def tables(results: Results) -> list[dict[str, Any]]:
    """All of them."""
    return [
        dense_table(results),
        *(accuracy_table(results, phase) for phase in PHASES),
        safe_table(results),
        law_table(results),
        flops_table(results),
        recall_table(results),
    ]


def dense_table(results: Results) -> dict[str, Any]:
    """What the small models can do."""
    rows = [
        [f"{params:,}", phase, length, *(f"{results.accuracy(m, phase, task, length, '', 1.0):.2f}" for task in TASKS)]
        for m, params in enumerate(results.params)
        for phase in PHASES
        for length in results.lengths
    ]
    rows.append(["guessing", "", "", *(f"{results.chance[task]:.2f}" for task in TASKS)])
    title = "Dense accuracy: prefill with the answer fed, decode with the answer said"
    return {"title": title, "header": ["parameters", "phase", "length", *TASKS], "rows": rows}


def accuracy_table(results: Results, phase: str) -> dict[str, Any]:
    """Every method and compression: the largest model, the longest prompts."""
    model, length = len(results.params) - 1, results.lengths[-1]
    rows = []
    for method in PHASES[phase]:
        for nominal in results.nominal:
            cells = [results.entry(model, phase, task, length, method, nominal) for task in TASKS]
            measured = statistics.harmonic_mean([one["compression"] for one in cells])
            scores = [f"{statistics.fmean(one['scores']):.2f}" for one in cells]
            if phase == "decode":
                scores += [
                    f"{results.accuracy(model, phase, task, length, method, nominal, asked=False):.2f}"
                    for task in TASKS
                    if task != "count"
                ]
            rows.append([method, f"{nominal:g}x", f"{measured:.1f}x", *scores])
    unasked = [f"{task}, not asked" for task in TASKS if task != "count"] if phase == "decode" else []
    return {
        "title": f"Accuracy in {phase}, {results.params[-1]:,} parameters, {length} tokens",
        "header": ["method", "asked for", "compression", *TASKS, *unasked],
        "rows": rows,
    }


def safe_table(results: Results) -> dict[str, Any]:
    """Largest safe compressions."""
    rows = []
    for phase, methods in PHASES.items():
        for method in methods:
            for model, params in enumerate(results.params):
                for length in results.lengths:
                    safe = [f"{results.safe(model, phase, task, length, method):.1f}x" for task in TASKS]
                    rows.append([phase, method, f"{params:,}", length, *safe])
    return {
        "title": "Largest safe compression (paired one-sided bootstrap, 5 %, Bonferroni)",
        "header": ["phase", "method", "parameters", "length", *TASKS],
        "rows": rows,
    }


def law_table(results: Results) -> dict[str, Any]:
    """Fits of the law, method by method."""
    rows = []
    for phase, methods in PHASES.items():
        for method in methods:
            law = results.law(phase, method)
            numbers = [law.intercept, *law.task.values(), law.params, law.length, law.compression]
            rows.append([phase, method, f"{law.r_squared:.2f}", *(f"{value:.2f}" for value in numbers)])
    header = ["phase", "method", "R2", "eps", *(f"delta {task}" for task in TASKS), "alpha", "beta", "gamma"]
    return {"title": "Scaling law, natural logarithms, raw N", "header": header, "rows": rows}


def flops_table(results: Results) -> dict[str, Any]:
    """Cost of the prefill and accuracy."""
    rows = [
        [f"{results.params[p.model]:,}", p.length, f"{p.compression:g}x", f"{p.flops / 1e9:.3f}", f"{p.accuracy:.3f}"]
        for p in points(results)
    ]
    header = ["parameters", "length", "asked for", "GFLOP of a prefill", "accuracy, mean over tasks"]
    return {"title": "IsoFLOPS: vertical-slash, causal cells, selecting included", "header": header, "rows": rows}


def recall_table(results: Results) -> dict[str, Any]:
    """SmolLM2's attention."""
    rows = []
    for phase, methods in PHASES.items():
        for method in methods:
            for length in results.recall_lengths(phase):
                for nominal in (1.0, *results.recall_nominal):
                    value = {
                        name: results.recalled(method, length, nominal, name)
                        for name in ("recall", "error", "sparsity")
                    }
                    rows.append([phase, method, length, f"{nominal:g}x", f"{1 / (1 - value['sparsity']):.1f}x",
                                 f"{value['recall']:.3f}", f"{value['error']:.3f}"])  # fmt: skip
    header = ["phase", "method", "length", "asked for", "compression", "recall", "error of the output"]
    return {"title": "SmolLM2's attention, mean over layers", "header": header, "rows": rows}
