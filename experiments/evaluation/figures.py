"""Figures beside a result: tokens per call and speed-up by family, acceptance by depth, adaptation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from experiments.benchmarks.figures import STYLE
from experiments.evaluation.adaptation import ADAPTATION_ARMS
from experiments.evaluation.summary import ALL


def names(document: Mapping[str, Any]) -> list[str]:
    """File names of the figures of a result."""
    kinds = ["tokens_per_call", "speedup"]
    kinds += ["acceptance"] if any(row["acceptance"] for row in document["rows"]) else []
    kinds += ["adaptation"] if document["adaptation"] else []
    return [f"{document['stem']}_{kind}.svg" for kind in kinds]


def draw(document: Mapping[str, Any], folder: Path):
    """Write the figures of a result into ``folder``. The same result gives the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    drawers = {
        "tokens_per_call": tokens_per_call,
        "speedup": speedup,
        "acceptance": acceptance,
        "adaptation": adaptation,
    }
    for name in names(document):
        kind = name.removeprefix(f"{document['stem']}_").removesuffix(".svg")
        with matplotlib.rc_context(STYLE):
            figure = drawers[kind](plt, document)
            figure.savefig(folder / name, metadata={"Date": None})
            plt.close(figure)


def tokens_per_call(plt: Any, document: Mapping[str, Any]):
    """Grouped bars; plain decoding is the line at 1."""
    rows = [row for row in document["rows"] if row["arm"] != row["baseline"] and row["family"] != ALL]
    return _bars(plt, rows, lambda row: (row["tokens_per_call"], None), "tokens per call")


def speedup(plt: Any, document: Mapping[str, Any]):
    """Grouped bars with bootstrap intervals."""
    rows = [
        row for row in document["rows"] if row["arm"] != row["baseline"] and row["family"] != ALL and row.get("speedup")
    ]

    def value(row: Mapping[str, Any]):
        found = row["speedup"]
        return found["mean"], (found["mean"] - found["low"], found["high"] - found["mean"])

    return _bars(plt, rows, value, "speed-up over plain decoding")


def _bars(plt: Any, rows: list[Mapping[str, Any]], value: Any, label: str):
    figure, ax = plt.subplots(figsize=(7.2, 2.8), layout="constrained")
    families = list(dict.fromkeys(row["family"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    width = 0.8 / max(1, len(arms))
    for number, arm in enumerate(arms):
        own = [row for row in rows if row["arm"] == arm]
        places = [families.index(row["family"]) + (number - (len(arms) - 1) / 2) * width for row in own]
        heights, errors = zip(*map(value, own))
        bars = (
            {"yerr": list(zip(*errors)), "error_kw": {"lw": 0.6}} if all(error is not None for error in errors) else {}
        )
        ax.bar(places, heights, width, label=arm, color=f"C{number}", **bars)
    ax.axhline(1, color="0.3", lw=0.8)
    ax.set_xticks(range(len(families)), families)
    ax.set_ylabel(label)
    figure.legend(frameon=False, ncols=1, loc="outside right upper", fontsize=7)
    return figure


def acceptance(plt: Any, document: Mapping[str, Any]):
    """Of the steps in which a depth was fed, those in which it was accepted; depths fed in fewer than 20 steps are left out."""
    figure, ax = plt.subplots(figsize=(4.8, 2.6), layout="constrained")
    for row in document["rows"]:
        if row["family"] == ALL and row["acceptance"]:
            points = [
                (depth, a) for depth, (a, fed) in enumerate(zip(row["acceptance"], row["drafted"]), 1) if fed >= 20
            ]
            ax.plot([depth for depth, _ in points], [a for _, a in points], marker="o", ms=2.5, lw=1, label=row["arm"])
    ax.set(xlabel="depth of the guess", ylabel="accepted / fed", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right upper", fontsize=7)
    return figure


def adaptation(plt: Any, document: Mapping[str, Any]):
    """Tokens per call against the prompt's index, one panel per domain."""
    rows = document["adaptation"]
    figure, axes = plt.subplots(
        1, len(rows), figsize=(3.2 * len(rows), 2.4), layout="constrained", sharey=True, squeeze=False
    )
    for ax, row in zip(axes[0], rows):
        for arm in ADAPTATION_ARMS:
            curve = row["tokens_per_call"][arm]
            ax.plot(range(1, len(curve) + 1), curve, marker="o", ms=2.5, lw=1, label=arm.replace("_", ", "))
        ax.set(xlabel="prompt", title=row["domain"])
    axes[0][0].set_ylabel("tokens per call")
    axes[0][-1].legend(frameon=False)
    return figure
