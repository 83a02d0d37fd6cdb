"""Two figures beside a result of ``kernels``: how near each backend comes to the floor, and what sharing a prefix gains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from experiments.benchmarks.figures import STYLE
from experiments.benchmarks.kernels.shapes import OPERATIONS
from experiments.benchmarks.kernels.targets import fastest


def names(document: Mapping[str, Any]) -> list[str]:
    """File names of the figures of a result."""
    return [f"{document['stem']}_{kind}.svg" for kind in ("floor", "sharing")]


def draw(document: Mapping[str, Any], folder: Path):
    """Write the figures of a result into ``folder``. The same result gives the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    for name, drawer in zip(names(document), (floor, sharing)):
        with matplotlib.rc_context(STYLE):
            figure = drawer(plt, document)
            figure.savefig(folder / name, metadata={"Date": None})
            plt.close(figure)


def floor(plt: Any, document: Mapping[str, Any]):
    """Percent of the floor by shape, a panel for each operation, a mark for each side; whiskers from min to max."""
    panels = {name: [row for row in document["rows"] if row.get("operation") == name] for name in OPERATIONS}
    sides = list(dict.fromkeys(row["side"] for rows in panels.values() for row in rows))
    widest = max(len({row["case"] for row in rows}) for rows in panels.values())
    size = (max(4.8, 0.9 * widest + 1.6), 2.0 * len(panels) + 0.4)
    figure, axes = plt.subplots(len(panels), 1, figsize=size, layout="constrained")
    for ax, (operation, rows) in zip(axes, panels.items()):
        cases = list(dict.fromkeys(row["case"] for row in rows))
        for index, side in enumerate(sides):
            mine = [row for row in rows if row["side"] == side]
            samples = [row["metrics"]["fraction_of_floor"] for row in mine]
            places = [cases.index(row["case"]) + 0.1 * (index - (len(sides) - 1) / 2) for row in mine]
            medians = [100 * sample["median"] for sample in samples]
            low = [100 * (sample["median"] - sample["min"]) for sample in samples]
            high = [100 * (sample["max"] - sample["median"]) for sample in samples]
            style = {"fmt": "o" if side.startswith("jaxdec-") else "x", "ms": 4, "lw": 0.8}
            if mine:
                ax.errorbar(places, medians, yerr=[low, high], color=f"C{index}", label=side, **style)
        ax.set(title=operation, ylabel="% of the floor", ylim=(0, None))
        ax.set_xticks(range(len(cases)), [_label(rows, case) for case in cases])
    _legend(figure, axes)
    return figure


def sharing(plt: Any, document: Mapping[str, Any]):
    """Times of dense attention over copies / of the fastest of ours, by batch; a panel for each heads and prefix."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in document["rows"]:
        ours = fastest(document, row["case"])
        if row.get("operation") == "whole_attention" and ours is not None and not row["side"].startswith("jaxdec-"):
            panel = f"{row['num_heads']}/{row['num_kv_heads']} heads, {row['prefix']} tokens"
            point = (row["batch"], row["ratios"][ours["side"]]["median"])
            panels.setdefault(panel, {}).setdefault(row["side"], []).append(point)
    size = (max(3.2, 2.1 * len(panels) + 0.4), 2.6)
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for ax, (title, lines) in zip(axes[0], panels.items()):
        for side, points in lines.items():
            batches, ratios = zip(*sorted(points))
            ax.plot(batches, ratios, marker="o", ms=3, label=side)
            ax.set_xscale("log", base=2)
            ax.set_xticks(batches, [str(batch) for batch in batches])
        ax.axhline(1, color="0.7", lw=0.8)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(title=title, xlabel="rows")
    axes[0, 0].set_ylabel("dense over copies / shared, times")
    _legend(figure, axes[0])
    return figure


def _legend(figure: Any, axes: Any):
    """One for all panels, below them."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)


def _label(rows: list[Mapping[str, Any]], case: str) -> str:
    row = next(row for row in rows if row["case"] == case)
    prefix = f"\n{row['prefix']} tokens" if row["prefix"] else ""
    prefix += f", {row['read']} read" if row["read"] else ""
    return f"{row['batch']} {'row' if row['batch'] == 1 else 'rows'}{prefix}\n{row['num_heads']}/{row['num_kv_heads']} heads"
