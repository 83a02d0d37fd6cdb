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
    lines = []
    for path in sorted(folder.glob("*/metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if not metrics.get("smoke"):
                lines.append(_row(path.parent.name, metrics))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} lacks something this page shows: {error!r}") from error
    if not lines:
        return HEADER + "No result yet.\n"
    columns = ["name", "paper", "file", "guarantee", "reproduced", "claims: measured (reproduced?)"]
    return HEADER + markdown_table(columns, lines)


def _row(name: str, metrics: dict[str, Any]) -> list[str]:
    files = ", ".join(f"[{Path(file).name}](../{file})" for file in metrics["files"])
    claims = metrics["claims"]
    reproduced = f"{sum(claim['reproduced'] is True for claim in claims)} of {len(claims)}"
    told = "<br>".join(f"{claim['claim']}: {claim['measured']} ({MARKS[claim['reproduced']]})" for claim in claims)
    return [f"`{name}`", f"{metrics['title']}, {metrics['source']}", files, metrics["guarantee"], reproduced, told]
