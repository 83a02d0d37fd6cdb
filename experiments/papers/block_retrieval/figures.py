"""Figures: recall and attention covered by probe and budget; densities, and what is found, by layer."""

from pathlib import Path
from typing import Any

from experiments.papers.block_retrieval.recorded import QUESTION
from experiments.papers.block_retrieval.results import Results
from experiments.papers.block_retrieval.texts import PLACES
from experiments.papers.speculative.figures import draw
from jaxdec.attention.sparse.actqkv import PROBES


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    draw(folder / "recall.svg", 2, (3.0, 2.4), lambda axes: recall(axes, results))
    draw(folder / "attention.svg", 2, (3.0, 2.4), lambda axes: attention(axes, results))
    draw(folder / "layers.svg", 2, (3.0, 2.4), lambda axes: layers(axes, results))
    return [
        {"file": "recall.svg", "caption": "Share of layers that ask for the fact's block, by probe and budget, for questions "
                                          "in the middle and at the end of their window. Dashed: blocks drawn at random."},
        {"file": "attention.svg", "caption": "Share of the question's attention to blocks that lies in those asked for. "
                                             "Dashed: the best choice there is."},
        {"file": "layers.svg", "caption": "By layer: information density of the activation probe's scores, and how often the "
                                          "fact's block is among the rule's number of blocks."},
    ]  # fmt: skip


def recall(axes: Any, results: Results) -> None:
    """A panel per place."""
    budgets = list(results.budgets)
    for ax, place in zip(axes, PLACES):
        for probe in (*PROBES, QUESTION):
            ax.plot(budgets, [results.found(place, probe, k).mean() for k in budgets], marker="o", ms=3, label=probe)
        ax.plot(budgets, [results.by_chance(k) for k in budgets], ls="--", color="0.6")
        ax.set(xlabel="blocks", title=f"question in the {place}" if place == "middle" else f"question at the {place}")
    axes[0].set(ylabel="recall of the fact's block")
    axes[0].legend(frameon=False)


def attention(axes: Any, results: Results) -> None:
    """A panel per place."""
    budgets = list(results.budgets)
    for ax, place in zip(axes, PLACES):
        for probe in (*PROBES, QUESTION):
            ax.plot(budgets, [results.covered(place, probe, k).mean() for k in budgets], marker="o", ms=3, label=probe)
        best = [results.covered(place, "attention itself", k).mean() for k in budgets]
        ax.plot(budgets, best, ls="--", color="0.6")
        ax.set(xlabel="blocks", title=place)
    axes[0].set(ylabel="attention covered")
    axes[0].legend(frameon=False)


def layers(axes: Any, results: Results) -> None:
    """Densities; recall."""
    for temperature in results.temperatures:
        found = results.densities(temperature)
        middle, spread = found.mean(axis=0), found.std(axis=0)
        (line,) = axes[0].plot(middle, marker="o", ms=2, label=f"temperature {float(temperature):g}")
        axes[0].fill_between(
            range(len(middle)), middle - spread, middle + spread, color=line.get_color(), alpha=0.2, lw=0
        )
    axes[0].set(xlabel="layer", ylabel="information density")
    axes[0].legend(frameon=False)
    for probe in PROBES[:2]:
        axes[1].plot(results.by_layer("middle", probe, results.rule.top_blocks), marker="o", ms=2, label=probe)
    axes[1].set(xlabel="layer", ylabel=f"recall among {results.rule.top_blocks}")
    axes[1].legend(frameon=False)
