"""Three figures: what a pass costs, what chains yield beside the formula, and what each method yields by family."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments.papers.diverse_beam.figures import STYLE
from experiments.papers.speculative.arms import PLAIN
from experiments.papers.speculative.results import Results
from experiments.record import write_text
from jaxdec.evaluation.acceptance import expected_tokens_per_call


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    costs = {name or "target": row for name, row in results.curve["costs"].items()}
    draw(folder / "cost.svg", 1, (3.2, 2.4), lambda axes: cost_curve(axes[0], costs))
    draw(folder / "chains.svg", len(results.chains), (2.4, 2.4), lambda axes: chain_curves(axes, results.chains))
    draw(folder / "families.svg", 1, (6.5, 2.6), lambda axes: family_bars(axes[0], results))
    return [
        {"file": "cost.svg", "caption": "Time of a pass over n tokens, in plain steps of the target."},
        {"file": "chains.svg", "caption": "Greedy chains of g guesses: tokens per step, measured and by the formula."},
        {"file": "families.svg", "caption": "Tokens per call by family, greedy; plain decoding is 1."},
    ]


def cost_curve(ax: Any, costs: Mapping[str, Mapping[str, float]]) -> None:
    """T(n) / T(1)."""
    for name, row in costs.items():
        counts = sorted(map(int, row))
        ax.plot(counts, [row[str(count)] for count in counts], marker="o", ms=3, label=name)
    ax.axhline(1, color="0.6", lw=0.9, ls="--")
    ax.set(xscale="log", yscale="log", xlabel="tokens", ylabel="plain steps")
    ax.legend(frameon=False)


def chain_curves(axes: Sequence[Any], chains: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """A panel per draft model."""
    for ax, (draft, rows) in zip(axes, chains.items()):
        lengths = [row["g"] for row in rows]
        first = [expected_tokens_per_call([rows[0]["a"]] * g) for g in lengths]
        ax.plot(lengths, [row["measured"] for row in rows], marker="o", ms=3, label="measured")
        ax.plot(lengths, [row["formula"] for row in rows], ls="--", label="formula, own a")
        ax.plot(lengths, first, ls=":", label="formula, a at g = 1")
        ax.set(xlabel="g", title=draft)
    axes[0].set(ylabel="tokens per step")
    axes[0].legend(frameon=False)


def family_bars(ax: Any, results: Results) -> None:
    """A group of bars per family."""
    families, arms = list(dict.fromkeys(results.families)), [arm for arm in results.texts if arm != PLAIN]
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        values = [results.mean_tokens_per_call(arm, [family]) for family in families]
        ax.bar(np.arange(len(families)) + (number - (len(arms) - 1) / 2) * width, values, width, label=arm)
    ax.axhline(1, color="k", lw=0.9, ls="--")
    ax.set_xticks(range(len(families)), families)
    ax.set(ylabel="tokens per call")
    ax.legend(frameon=False, ncols=3)


def draw(path: Path, panels: int, size: tuple[float, float], fill: Callable[[Sequence[Any]], None]) -> None:
    """Write a figure. The same numbers give the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(size[0] * panels, size[1]), layout="constrained", squeeze=False)
        fill(axes[0])
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_text(path, text.getvalue())
