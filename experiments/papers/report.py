"""What a replica hands back, and the report that is written from it.

``run`` returns a dictionary, ready for JSON, with

- ``title``, ``source`` (arXiv number or the like), ``files`` (of the method, from the project's root), ``guarantee``;
- ``claims``: each with ``claim``, ``paper`` (what it reports), ``measured`` (what we found), ``reproduced`` (true, false, or
  null where the replica cannot tell) and ``reason`` (null, or why it did not reproduce or cannot be told);
- ``tables``: each with ``title``, ``header``, ``rows``; ``figures``: each with ``file`` and ``caption``; ``notes``: sentences;
- ``seconds``: how long the parts took to compute.

It may hold more. The launcher adds ``paper`` (the name), ``command``, ``smoke``, ``config`` and ``environment``.
"""

import json
from collections.abc import Mapping
from typing import Any

from experiments.record import markdown_table

TEXTS = ("title", "source", "guarantee")
LISTS = {
    "files": None,
    "claims": {"claim", "paper", "measured", "reproduced", "reason"},
    "tables": {"title", "header", "rows"},
    "figures": {"file", "caption"},
    "notes": None,
}
MARKS = {True: "yes", False: "**no**", None: "open"}
SMOKE = "smoke run: too small to judge"


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if something is missing from what a replica handed back, or is not known here."""
    for name in TEXTS:
        if not isinstance(metrics.get(name), str):
            raise ValueError(f"metrics[{name!r}] must be a text, got {metrics.get(name)!r}")
    if not isinstance(metrics.get("seconds"), (int, float)):
        raise ValueError(f"metrics['seconds'] must be a number, got {metrics.get('seconds')!r}")
    for name, fields in LISTS.items():
        entries = metrics.get(name)
        if not isinstance(entries, list):
            raise ValueError(f"metrics[{name!r}] must be a list, got {entries!r}")
        for entry in entries:
            if fields is not None and (not isinstance(entry, dict) or set(entry) != fields):
                raise ValueError(f"metrics[{name!r}] has {entry!r}, each must have {', '.join(sorted(fields))}")
    for claim in metrics["claims"]:
        if claim["reproduced"] not in (True, False, None):
            raise ValueError(f"reproduced must be true, false or null, got {claim['reproduced']!r}")
        if claim["reproduced"] is not True and not claim["reason"]:
            raise ValueError(f"claim {claim['claim']!r} did not reproduce, and no reason is given")


def without_verdicts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a smoke run: numbers stay, verdicts go."""
    claims = [{**claim, "reproduced": None, "reason": SMOKE} for claim in metrics["claims"]]
    return {**metrics, "claims": claims}


def report(metrics: Mapping[str, Any]) -> str:
    """Markdown: claims beside measurements, tables, figures, and what they were made with."""
    claims = [
        [claim["claim"], claim["paper"], claim["measured"], MARKS[claim["reproduced"]], claim["reason"]]
        for claim in metrics["claims"]
    ]
    environment = metrics["environment"]
    sections = [
        f"# {metrics['title']}",
        f"{metrics['source']}. Method: {', '.join(f'`{file}`' for file in metrics['files'])} "
        f"(guarantee: {metrics['guarantee']}).",
        f"    {metrics['command']}",
        f"{metrics['seconds']:.0f} s of computing on {environment['cpu_model']}, {environment['cores']} cores, "
        f"{environment['device_kind']}; jax {environment['jax']}; {environment['date']}; commit {environment['commit']}"
        f"{' with changes' if environment['dirty'] else ''}.",
        "## Claims",
        markdown_table(["claim", "paper", "measured here", "reproduced", "why not, or why open"], claims).rstrip(),
        *(f"- {note}" for note in metrics["notes"]),
    ]
    for figure in metrics["figures"]:
        sections += [f"![{figure['caption']}]({figure['file']})", figure["caption"]]
    for table in metrics["tables"]:
        sections += [f"## {table['title']}", markdown_table(table["header"], table["rows"]).rstrip()]
    sections += ["## Config", f"```json\n{json.dumps(metrics['config'], indent=1, ensure_ascii=False)}\n```"]
    return "\n\n".join(sections) + "\n"
