"""``docs/papers.md``: the methods carried, their guarantee, and which of each paper's claims our replica reproduced.

One row per ``benchmarks/results/papers/NAME/metrics.json``, of which this page reads: ``title``, ``source`` (arXiv number or
the like), ``files`` (of the method), ``guarantee``, and ``claims``, each with ``claim``, ``measured`` and ``reproduced``
(true, false, or null where the replica cannot tell). Smoke runs are left out.
"""

import json
from pathlib import Path
from typing import Any

from experiments.record import markdown_table

HEADER = """\
# Papers

Written by `python -m experiments.benchmark --render` from `benchmarks/results/papers/*/metrics.json`; nothing here is typed
by hand. Each row is one `python -m experiments.reproduce --paper=NAME`.

"""
MARKS = {True: "yes", False: "**no**", None: "open"}


def papers_page(folder: Path) -> str:
    """Return the page for all papers in ``folder``, by name.

    Raises:
      ValueError: a file lacks what the page shows.
    """
    rows, sections = [], []
    for path in sorted(folder.glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if not metrics.get("smoke"):
                rows.append(_row(path.parent.name, metrics))
                sections.append(_section(path.parent.name, metrics))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} lacks something this page shows: {error!r}") from error
    if not rows:
        return HEADER + "No result yet.\n"
    table = markdown_table(["name", "paper", "file", "guarantee", "claims reproduced"], rows)
    return HEADER + "\n".join([table, *sections])


def _row(name: str, metrics: dict[str, Any]) -> list[str]:
    files = ", ".join(f"[{Path(file).name}](../{file})" for file in metrics["files"])
    claims = metrics["claims"]
    count = f"{sum(claim['reproduced'] is True for claim in claims)} of {len(claims)}"
    paper = f"{metrics['title']}, {metrics['source']}"
    return [f"[`{name}`](#{name})", paper, files, metrics["guarantee"], count]


def _section(name: str, metrics: dict[str, Any]) -> str:
    """A paper's claims, one per line."""
    claims = [[claim["claim"], claim["measured"], MARKS[claim["reproduced"]]] for claim in metrics["claims"]]
    report = f"[Report](../benchmarks/results/papers/{name}/report.md), with the reasons and the figures."
    return f"## {name}\n\n{markdown_table(['claim', 'measured', 'reproduced'], claims)}\n{report}\n"
