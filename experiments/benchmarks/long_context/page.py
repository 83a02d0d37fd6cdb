"""The section and the figure of a result of the suite ``long_context``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.tables import environment_table, load, loudness, number, spread, targets_table
from experiments.papers.speculative.figures import draw as draw_axes
from experiments.record import markdown_table

HEADER = ["what", "rule", "ms", "times faster than dense", "cache, MB", "compile, s", "foreign load", "loud rounds"]


def long_context_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One machine's results."""
    rows = []
    for row in d["rows"]:
        held = row["metrics"]["cache_megabytes"]["median"]
        time = spread(row["metrics"]["milliseconds"], 1)
        cells = [row["case"], row["side"], time, f"{row['faster']:.2f}", number(held or None, 0)]
        rows.append([*cells, number(row["compile_seconds"], 1), load(row), loudness(row)])
    parts = [
        f"### {d['host']}, {d['date']}, {d['context']} tokens",
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
    """How many times faster each rule is, a panel for each case."""
    cases = list(dict.fromkeys(row["case"] for row in d["rows"]))

    def bars(axes: Any) -> None:
        for ax, case in zip(axes, cases):
            rows = [row for row in d["rows"] if row["case"] == case][::-1]
            ax.barh([row["side"] for row in rows], [row["faster"] for row in rows], color="0.5")
            ax.axvline(1, color="0.2", lw=0.9, ls="--")
            ax.set(title=case, xlabel="times faster than dense")

    draw_axes(folder / names(d)[0], len(cases), (2.6, 1.8), bars)
