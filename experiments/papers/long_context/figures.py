"""Figures of the replica."""

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments.benchmarks.figures import STYLE
from experiments.papers.long_context.iso_flops import needed_compression, points
from experiments.papers.long_context.results import Results
from experiments.papers.long_context.tables import PHASES
from experiments.papers.long_context.verdicts import BEST, QWEN_PAIRS
from jaxdec.evaluation.attention_costs import QWEN25
from jaxdec.evaluation.long_context.token_tasks import TASKS

CAPTIONS = {
    "accuracy.svg": "Accuracy by task against the compression measured: largest model, longest prompts. Dotted: guessing.",
    "law.svg": "Accuracies of all cells against the scaling law fitted to them, by method of each phase.",
    "isoflops.svg": "Left: cost of the prefill and mean accuracy, vertical-slash, longest prompts; large marks are dense. "
    "Right: compression of attention at which a larger Qwen2.5's prefill is as cheap as a smaller dense one's (formula).",
    "recall.svg": "SmolLM2-135M: share of dense attention that lies on what a rule reads, and error of the output; mean over "
    "layers, longest text of the phase.",
}


def draw_figures(results: Results, folder: Path) -> list[dict[str, str]]:
    """Write them all; returns files and captions."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    makers = {"accuracy.svg": _accuracy, "law.svg": _law, "isoflops.svg": _isoflops, "recall.svg": _recall}
    for name, make in makers.items():
        with matplotlib.rc_context(STYLE):
            figure = make(plt, results)
            figure.savefig(folder / name, metadata={"Date": None})
            plt.close(figure)
    return [{"file": name, "caption": caption} for name, caption in CAPTIONS.items()]


def _accuracy(plt: Any, results: Results):
    model, length = len(results.params) - 1, results.lengths[-1]
    figure, axes = plt.subplots(2, len(TASKS), figsize=(7.2, 4), layout="constrained", sharey=True)
    for row, (phase, methods) in zip(axes, PHASES.items()):
        for ax, task in zip(row, TASKS):
            for number, method in enumerate(methods):
                found = [results.entry(model, phase, task, length, method, c) for c in (1.0, *results.nominal)]
                x = [max(1.0, one["compression"]) for one in found]
                ax.plot(x, [statistics.fmean(one["scores"]) for one in found], marker="o", ms=3, lw=1,
                        color=f"C{number + 3 * (phase == 'decode')}", label=method)  # fmt: skip
            ax.axhline(results.chance[task], color="0.5", lw=0.8, ls=":")
            ax.set(xscale="log", title=f"{phase}: {task}", ylim=(0, 1.03))
        row[0].set_ylabel("accuracy")
        row[-1].legend(frameon=False, fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("compression")
    return figure


def _law(plt: Any, results: Results):
    figure, axes = plt.subplots(1, 2, figsize=(6, 2.8), layout="constrained", sharey=True)
    for ax, (phase, method) in zip(axes, BEST.items()):
        law = results.law(phase, method)
        for number, task in enumerate(TASKS):
            cells = [cell for cell in results.cells(phase, method) if cell.task == task]
            said = [law.accuracy(task, cell.params, cell.length, cell.compression) for cell in cells]
            ax.plot(said, [cell.accuracy for cell in cells], "o", ms=3, color=f"C{number}", label=task)
        ax.plot([0, 1], [0, 1], color="0.5", lw=0.8)
        ax.set(title=f"{method}: $R^2$ = {law.r_squared:.2f}", xlabel="law", xlim=(0, 1), ylim=(0, 1.03))
    axes[0].set_ylabel("measured accuracy")
    axes[1].legend(frameon=False, fontsize=7)
    return figure


def _isoflops(plt: Any, results: Results):
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    found = [point for point in points(results) if point.length == results.lengths[-1]]
    for model, params in enumerate(results.params):
        mine = [point for point in found if point.model == model]
        x, y = [point.flops for point in mine], [point.accuracy for point in mine]
        left.plot(x, y, marker="o", ms=3, lw=1, color=f"C{model}", label=f"{params:,}")
        left.plot(x[:1], y[:1], "o", ms=6, color=f"C{model}")
    left.set(xscale="log", xlabel="FLOP of a prefill", ylabel="accuracy, mean over tasks")
    left.legend(frameon=False, fontsize=7, title="parameters", title_fontsize=7)
    lengths = np.geomspace(4096, 1 << 20, 60).astype(int)
    for large, small in QWEN_PAIRS:
        needed = [needed_compression(QWEN25[large], QWEN25[small], int(length)) for length in lengths]
        right.plot(lengths, [np.nan if value is None else value for value in needed], lw=1, label=f"{large} as {small}")
    right.set(xscale="log", yscale="log", ylim=(1, 100), xlabel="tokens", ylabel="compression needed")
    right.legend(frameon=False, fontsize=7)
    return figure


def _recall(plt: Any, results: Results):
    figure, axes = plt.subplots(2, 2, figsize=(6, 4), layout="constrained", sharex=True)
    for column, (phase, methods) in enumerate(PHASES.items()):
        length = results.recall_lengths(phase)[-1]
        for row, value in enumerate(("recall", "error")):
            ax = axes[row, column]
            for number, method in enumerate(methods):
                found = [results.recalled(method, length, c, value) for c in (1.0, *results.recall_nominal)]
                sparsity = [results.recalled(method, length, c, "sparsity") for c in (1.0, *results.recall_nominal)]
                x = [1 / (1 - max(share, 0)) for share in sparsity]
                colour = f"C{number + 3 * column}"
                ax.plot(x, found, marker="o", ms=3, lw=1, color=colour, label=method)
            ax.set(xscale="log", ylabel=value if column == 0 else None)
        axes[0, column].set_title(f"{phase}, {length} tokens")
        axes[1, column].set_xlabel("compression")
        axes[0, column].legend(frameon=False, fontsize=7)
    return figure
