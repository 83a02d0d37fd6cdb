"""Cells and tables that the pages of several suites have."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.record import markdown_table


def targets_table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Target beside measurement."""
    lines = []
    for verdict in verdicts:
        sign = "at least" if verdict["at_least"] else "at most"
        reached = {True: "yes", False: "**no**", None: "-"}[verdict["reached"]]
        measured = verdict["reason"] if verdict["measured"] is None else f"{verdict['measured']:.2f}"
        lines.append([verdict["name"], f"{sign} {verdict['bound']:g}", measured, reached, verdict["loud_rounds"]])
    return markdown_table(["what", "target", "measured", "reached", "loud rounds"], lines)


def environment_table(d: Mapping[str, Any]) -> str:
    """The environment record as a two-column table."""
    lines = [
        [key.replace("_", " "), ", ".join(value) if isinstance(value, list) else value]
        for key, value in d["environment"].items()
    ]
    return markdown_table(["", ""], [*lines, ["rounds", d["rounds"]]])


def spread(samples: Mapping[str, Any], digits: int) -> str:
    """``median (min to max)``."""
    return f"{samples['median']:.{digits}f} ({samples['min']:.{digits}f} to {samples['max']:.{digits}f})"


def ratio(row: Mapping[str, Any], metric: str) -> str:
    """Median of a metric with two digits."""
    return f"{row['metrics'][metric]['median']:.2f}"


def load(row: Mapping[str, Any]) -> str:
    """Median foreign load of a row."""
    return "unknown" if row["foreign_load"] is None else f"{row['foreign_load']['median']:.2f}"


def loudness(row: Mapping[str, Any]) -> str:
    """``loud of all`` rounds."""
    return f"{row['loud_rounds']} of {row['rounds']}"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
