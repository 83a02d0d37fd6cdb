"""Two figures: what prefill computes and keeps, and what answers cost in entries."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.chunk_sparsity.results import Results, log_prob, right
from experiments.papers.speculative.figures import draw

LABELS = {"oracle": "oracle", "bm25": "BM25", "query_key": "query-key", "random": "random"}


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    draw(folder / "prefill.svg", 3, (2.4, 2.4), lambda axes: prefill(axes, results))
    draw(folder / "bilevel.svg", 2, (3.0, 2.4), lambda axes: bilevel(axes, results))
    return [
        {"file": "prefill.svg", "caption": "Chunked prefill by chunks before: share of pairs, and seconds beside plain prefill "
                                           "(dashed); log-probability of answers; of the last section's tokens."},
        {"file": "bilevel.svg", "caption": "Answers by entries of the cache: share right, and mean log-probability. "
                                           "Uniform pooling and oracle by window, the others by chunks chosen."},
    ]  # fmt: skip


def prefill(axes: Any, results: Results) -> None:
    """By previous."""
    whole = results.with_markers(True)
    steps = [one["previous"] for one in whole]
    axes[0].plot(steps, [one["share"] for one in whole], marker="o", ms=3, label="share of pairs")
    seconds = [one["seconds"] / results.plain["seconds"] for one in whole]
    axes[0].plot(steps, seconds, marker="s", ms=3, label="seconds / plain")
    axes[0].axhline(1, color="0.6", lw=0.9, ls="--")
    axes[0].set(xlabel="chunks before", ylabel="beside plain prefill")
    axes[0].legend(frameon=False)
    for ax, name, label in (
        (axes[1], "log_prob", "answers, nats"),
        (axes[2], "last_section", "last section, nats per token"),
    ):
        for markers, text in ((True, "global markers"), (False, "none")):
            line = results.with_markers(markers)
            ax.plot(
                [one["previous"] for one in line], [np.mean(one[name]) for one in line], marker="o", ms=3, label=text
            )
        ax.axhline(np.mean(results.plain[name]), color="0.6", lw=0.9, ls="--")
        ax.set(xlabel="chunks before", ylabel=label)
        ax.legend(frameon=False)


def bilevel(axes: Any, results: Results) -> None:
    """By entries."""
    lines = {"all pooled": results.sweep("none"), "oracle": results.sweep("oracle", 1)}
    lines |= {
        LABELS[name]: [results.arm(name, top) for top in results.tops] for name in ("bm25", "query_key", "random")
    }
    lines["all dense"] = [results.arm("all")]
    for ax, score, label in ((axes[0], right, "share right"), (axes[1], log_prob, "log-probability of answers")):
        for name, arms in lines.items():
            ax.plot([arm["entries"] for arm in arms], [score(arm) for arm in arms], marker="o", ms=3, label=name)
        ax.set(xlabel="entries", ylabel=label)
    axes[0].legend(frameon=False)
