"""Two figures: what attention gains by rows, prefix and suffix; and what whole steps and trees take."""

from pathlib import Path
from typing import Any

from experiments.papers.shared_prefixes.results import Results, bound, median
from experiments.papers.shared_prefixes.timing import speed_ups
from experiments.papers.speculative.figures import draw

LABELS = {"copied": "prefix copied", "shared": "prefix shared", "none": "no prefix"}


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    draw(folder / "attention.svg", 2, (3.0, 2.4), lambda axes: gains(axes, results))
    draw(folder / "steps.svg", 2, (3.0, 2.4), lambda axes: times(axes, results))
    return [
        {"file": "attention.svg", "caption": "Attention alone: times faster with a shared prefix. Dashed: fewer bytes read."},
        {"file": "steps.svg", "caption": "Whole steps at the largest batch by prefix, and a tree of examples, problems and "
                                         "samples by levels (prefill below, steps above)."},
    ]  # fmt: skip


def gains(axes: Any, results: Results) -> None:
    """By rows, a line per prefix; by suffix."""
    batches, prefixes = (results.axis(name, results.attention) for name in ("batch", "prefix"))
    for prefix in prefixes:
        line = [results.attention_gain(batch, prefix, results.suffix) for batch in batches]
        axes[0].plot(batches, line, marker="o", ms=3, label=f"P = {prefix}")
    axes[0].axhline(1, color="0.6", lw=0.9, ls="--")
    axes[0].set(xlabel="rows", ylabel="times faster")
    axes[0].legend(frameon=False)
    sweep = results.sweep
    suffixes = [case["suffix"] for case in sweep]
    axes[1].plot(suffixes, [median(speed_ups(case)) for case in sweep], marker="o", ms=3, label="measured")
    axes[1].plot(suffixes, [bound(case) for case in sweep], ls="--", color="0.6", label="fewer bytes read")
    axes[1].set(xlabel="own tokens", title=f"b = {sweep[0]['batch']}, P = {sweep[0]['prefix']}")
    axes[1].legend(frameon=False)


def times(axes: Any, results: Results) -> None:
    """Steps by prefix; trees by levels."""
    batch = results.axis("batch", results.steps)[-1]
    prefixes = results.axis("prefix", results.steps)
    for side, label in LABELS.items():
        line = [median(results.case(results.steps, batch, prefix)["milliseconds"][side]) for prefix in prefixes]
        axes[0].plot(prefixes, line, marker="o", ms=3, label=label)
    axes[0].set(xlabel="prefix, tokens", ylabel="ms per step", title=f"b = {batch}")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    names = list(results.tree["arms"])
    first = [results.tree_seconds(name, "prefill") for name in names]
    axes[1].bar(names, first, label="prefill")
    axes[1].bar(names, [results.tree_seconds(name, "decode") for name in names], bottom=first, label="steps")
    axes[1].set(ylabel="seconds")
    axes[1].legend(frameon=False)
