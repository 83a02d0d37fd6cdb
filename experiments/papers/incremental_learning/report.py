"""Tables and figures of the replica of the Discrete Key-Value Bottleneck."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.incremental_learning.arms import LINEAR, MLP
from experiments.papers.incremental_learning.blobs import CENTRES
from experiments.papers.incremental_learning.digits import BINS
from experiments.papers.incremental_learning.verdicts import Results
from experiments.papers.speculative.figures import draw


def tables(results: Results) -> list[dict[str, Any]]:
    """Accuracy on digits and blobs, pairs, and times."""
    names = list(next(iter(results.digits.values()))["arms"])
    splits = range(1, len(results.curve(names[0])) + 1)
    accuracy = [
        [name, *results.curve(name).tolist(), float(results.iid(name).mean()), mean_of(results, name, "seconds")]
        for name in names
    ]
    pairs = [
        [
            name,
            results.arms(name)[0]["pairs"],
            mean_of(results, name, "unused"),
            mean_of(results, name, "perplexity"),
            float(np.mean([np.mean(arm["all_pairs"]) for arm in results.arms(name)])),
            float(np.mean([arm["errors"][0] for arm in results.arms(name)])),
            float(np.mean([arm["errors"][-1] for arm in results.arms(name)])),
        ]
        for name in names
        if "pairs" in results.arms(name)[0]
    ]
    blobs = [[name, *np.mean(found["after"], axis=-1).tolist()] for name, found in results.blobs.items()]
    timing = results.timing
    times = [
        [name, float(np.median(values)), min(values), max(values), timing["agree"][name]]
        for name, values in timing["milliseconds"].items()
    ]
    return [
        {
            "title": f"Digits: accuracy on all classes after each split, mean over {len(results.digits)} seeds",
            "header": ["learner", *(f"after {split}" for split in splits), "all at once", "seconds"],
            "rows": accuracy,
        },
        {
            "title": "Digits: probes by learning rate, accuracy on all classes",
            "header": ["learner", "learning rate", "after the last split", "all at once"],
            "rows": [[row["learner"], row["rate"], row["last"], row["iid"]] for row in results.rates()],
        },
        {
            "title": "Digits: pairs after the last split",
            "header": ["learner", "pairs", "never fetched", "perplexity of a codebook", "accuracy among all pairs",
                       "first distance to keys", "last"],
            "rows": pairs,
        },
        {
            "title": "Blobs: accuracy on all classes after each task",
            "header": ["learner", *(f"after {task}" for task in range(1, 5))],
            "rows": blobs,
        },
        {
            "title": "Search for the nearest keys, milliseconds",
            "header": ["way", "median", "least", "most", "places found as by nearest_key"],
            "rows": times,
        },
    ]  # fmt: skip


def mean_of(results: Results, name: str, what: str) -> float:
    """Mean over seeds."""
    return float(np.mean([arm[what] for arm in results.arms(name)]))


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    shown = (*results.blob_sizes, MLP, LINEAR)
    draw(folder / "digits.svg", 1, (3.6, 2.6), lambda axes: curves(axes[0], results))
    draw(folder / "usage.svg", 1, (3.6, 2.4), lambda axes: usage(axes[0], results))
    draw(folder / "blobs.svg", len(shown), (1.8, 2.0), lambda axes: regions(axes, results, shown))
    return [
        {"file": "digits.svg", "caption": "Digits: accuracy on all ten classes after each split of two; dashed, all classes "
                                          "at once."},
        {"file": "usage.svg", "caption": "How often a pair was fetched in training, share of all pairs; the first bar was "
                                         "never fetched."},
        {"file": "blobs.svg", "caption": "Blobs: the class that each learner sees at every place after four tasks; numbers "
                                         "are classes in the order they came."},
    ]  # fmt: skip


def curves(ax: Any, results: Results) -> None:
    """After each split."""
    for number, name in enumerate((*results.sizes, LINEAR, MLP)):
        line = results.curve(name)
        ax.plot(range(1, len(line) + 1), line, marker="o", ms=3, color=f"C{number}", label=name)
        ax.axhline(float(results.iid(name).mean()), color=f"C{number}", lw=0.7, ls="--")
    ax.set(xlabel="split", ylabel="accuracy", ylim=(0, 1.02))
    ax.set_xticks(range(1, len(line) + 1))
    ax.legend(frameon=False, fontsize=6)


def usage(ax: Any, results: Results) -> None:
    """By how often, in powers of two."""
    width = 0.8 / len(results.sizes)
    for number, name in enumerate(results.sizes):
        counts = np.sum([arm["histogram"] for arm in results.arms(name)], axis=0)
        places = np.arange(len(BINS)) + (number - (len(results.sizes) - 1) / 2) * width
        ax.bar(places, counts / counts.sum(), width, label=name)
    ax.set_xticks(range(len(BINS)), [str(low) for low in BINS], rotation=60)
    ax.set(xlabel="fetched at least", ylabel="share of pairs")
    ax.legend(frameon=False, fontsize=6)


def regions(axes: Any, results: Results, shown: tuple[str, ...]) -> None:
    """A panel per learner."""
    for ax, name in zip(axes, shown):
        found = np.array(results.blobs[name]["regions"])
        ax.imshow(found, origin="lower", extent=(0, 1, 0, 1), cmap="Set3", vmin=0, vmax=11, interpolation="nearest")
        for label, (across, up) in enumerate(CENTRES):
            ax.text(across, up, str(label), ha="center", va="center")
        ax.set(title=f"{name}: {results.blob(name):.2f}", xticks=(), yticks=())
