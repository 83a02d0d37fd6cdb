"""The section and the figure of a result of the suite ``training``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.tables import environment_table, load, loudness, number, spread, targets_table
from experiments.benchmarks.training.engine import BY_HAND
from experiments.papers.speculative.figures import draw as draw_axes
from experiments.record import markdown_table

HEADER = ["what", "rows", "loop", "ms per update", "/ by hand", "rows/s", "compile, s", "foreign load", "loud rounds"]


def training_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One machine's results."""
    rows = []
    for row in d["rows"]:
        over = "1" if row["side"] == BY_HAND else spread(row["ratios"][BY_HAND], 2)
        cells = [row["case"], row["batch"], row["side"], spread(row["metrics"]["milliseconds"], 1), over]
        cells += [spread(row["metrics"]["rows_per_second"], 0), number(row["compile_seconds"], 1)]
        rows.append([*cells, load(row), loudness(row)])
    parts = [
        f"### {d['host']}, {d['date']}",
        environment_table(d).rstrip(),
        f"**Targets**\n\n{targets_table(d['targets'])}".rstrip(),
        markdown_table(HEADER, rows).rstrip(),
        *(f"![{name}](../benchmarks/results/{name})" for name in names(d) if with_figures),
    ]
    return "\n\n".join(parts) + "\n"


def names(d: Mapping[str, Any]) -> list[str]:
    """The figure of a result."""
    return [f"{d['stem']}.svg"]


def draw(d: Mapping[str, Any], folder: Path) -> None:
    """Milliseconds per update, a panel for each case."""
    cases = list(dict.fromkeys(row["case"] for row in d["rows"]))

    def bars(axes: Any) -> None:
        for ax, case in zip(axes, cases):
            rows = [row for row in d["rows"] if row["case"] == case][::-1]
            times = [row["metrics"]["milliseconds"] for row in rows]
            medians = [time["median"] for time in times]
            spans = [[time["median"] - time["min"] for time in times], [time["max"] - time["median"] for time in times]]
            ax.barh([row["side"] for row in rows], medians, xerr=spans, color="0.5")
            ax.set(title=case, xlabel="ms per update")

    draw_axes(folder / names(d)[0], len(cases), (2.6, 1.6), bars)
