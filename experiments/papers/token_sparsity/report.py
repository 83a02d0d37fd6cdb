"""Tables and figures of the replica of ZipVL."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.speculative.figures import draw
from experiments.papers.token_sparsity.arms import DENSE, dynamic
from experiments.papers.token_sparsity.verdicts import Results, mean_surprisal


def tables(results: Results) -> list[dict[str, Any]]:
    """By rule for prompts, by rule for the cache, and times."""
    prompts = []
    for arm, scores in results.texts.items():
        sparse = arm != DENSE
        ratio = [results.ratio(source, arm) if sparse else 1.0 for source in ("texts", "needles")]
        skipped = float(np.mean(results.ratios["texts"][arm]["skipped"])) if sparse else 0.0
        found = sum(results.needles[arm]["best"]) / len(results.needles[arm]["best"])
        row = [arm, *ratio, skipped, float(np.exp(mean_surprisal(scores))), results.change(arm).mean, found]
        prompts.append([*row, mean_surprisal(results.needles[arm])])
    caches = []
    for arm, scores in results.caches.items():
        size = results.nbytes[arm]
        change = results.cache_change(arm)
        row = [arm, float(np.exp(mean_surprisal(scores))), change.mean, f"[{change.low:+.3f}, {change.high:+.3f}]"]
        caches.append([*row, size / 1e6, results.nbytes[DENSE] / size])
    times = [
        [case["length"], *(float(np.median(case["milliseconds"][arm])) for arm in case["milliseconds"])]
        for case in results.prefill
    ]
    header = ["rule for prompts", "important, texts", "important, needles", "cells skipped", "perplexity",
              "relative change", "needles found", "nats of the answer"]  # fmt: skip
    return [
        {"title": "Attention among important tokens", "header": header, "rows": prompts},
        {
            "title": "Caches in fewer bits; the last tokens are not packed: float32 for perplexities, bfloat16 for bytes",
            "header": ["rule for the cache", "perplexity", "relative change", "95% interval", "MB", "times smaller"],
            "rows": caches,
        },
        {
            "title": "Whole prefill of one prompt, milliseconds",
            "header": ["tokens", *results.prefill[0]["milliseconds"]],
            "rows": times,
        },
    ]


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw both; returns names and captions."""
    draw(folder / "ratios.svg", 2, (3.0, 2.4), lambda axes: ratios(axes, results))
    draw(folder / "caches.svg", 1, (3.4, 2.4), lambda axes: caches(axes[0], results))
    return [
        {"file": "ratios.svg", "caption": "Share of important tokens by layer and threshold, texts and needles."},
        {"file": "caches.svg", "caption": "Perplexity and size of caches in fewer bits."},
    ]


def ratios(axes: Any, results: Results) -> None:
    """By layer."""
    for ax, source in zip(axes, ("texts", "needles")):
        for threshold in results.thresholds:
            by_layer = np.mean(results.ratios[source][dynamic(threshold)]["ratio"], axis=0)
            ax.plot(by_layer, lw=1.2, label=f"{threshold:g}")
        ax.set(xlabel="layer", ylabel="important", title=source, ylim=(0, 1.02))
    axes[0].legend(frameon=False, title="threshold")


def caches(ax: Any, results: Results) -> None:
    """Perplexity by size."""
    for arm, scores in results.caches.items():
        size = results.nbytes[arm] / 1e6
        ax.plot([size], [float(np.exp(mean_surprisal(scores)))], marker="o", ms=4, ls="", label=arm)
    ax.set(xlabel="MB", ylabel="perplexity", xscale="log", yscale="log")
    ax.legend(frameon=False, fontsize=6)
