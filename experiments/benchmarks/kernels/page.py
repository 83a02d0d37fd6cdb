"""The section of a result of the suite ``kernels``."""

from collections.abc import Mapping
from typing import Any

import jinja2

from experiments.benchmarks.kernels import figures
from experiments.benchmarks.kernels.shapes import OPERATIONS
from experiments.benchmarks.kernels.targets import fastest
from experiments.benchmarks.tables import environment_table, loudness, number, spread, targets_table
from experiments.record import markdown_table

ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
SECTION = """\
### {{ d.host }}, {{ d.date }}

{{ environment }}
{{ ceilings }}

**Targets**{{ targets }}
{% for title, table in tables %}
**{{ title }}**

{{ table }}
{% endfor %}
{% for line in left_out %}
{{ line }}

{% endfor %}
{% for name in figures %}
![{{ name }}](../benchmarks/results/{{ name }})
{% endfor %}
"""
TITLES = {
    "merge": "`merge` of two states",
    "prefix_attention": "`prefix_attention`: all rows, one prefix",
    "decode_attention": "`decode_attention`: every row its own keys",
    "whole_attention": "Whole attention: shared prefix, own keys, and their merge",
    "block_sparse_attention": "`block_sparse_attention`: prompts, lists of blocks of 128 keys",
    "sparse_decode_attention": "`sparse_decode_attention`: every row its own keys, lists of pages of 16",
}


def kernels_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One device's results."""
    tables = [(TITLES[operation], operation_table(d, operation)) for operation in OPERATIONS]
    tables.append(("Dense attention over a copied prefix / ours", speed_ups_table(d)))
    section = ENVIRONMENT.from_string(SECTION).render(
        d=d,
        environment=environment_table(d),
        ceilings=ceilings_text(d),
        targets=f"\n\n{targets_table(d['targets'])}" if d["targets"] else ": none is set for this device.\n",
        tables=tables,
        left_out=left_out(d),
        figures=figures.names(d) if with_figures else [],
    )
    return section.rstrip() + "\n"


def ceilings_text(d: Mapping[str, Any]) -> str:
    """What the machine can do, and whose time is shown."""
    row = next(row for row in d["rows"] if row["side"] == "device")
    metrics = row["metrics"]
    copied, was_read = (spread(metrics[f"{name}_gigabytes_per_second"], 0) for name in ("copy", "read"))
    rate = spread({name: metrics["gigaflops_per_second"][name] / 1e3 for name in ("median", "min", "max")}, 2)
    whose = {"device": "the device's own", "host": "a call's on the host"}[d["clock"]]
    return (
        f"A copy moves {copied} GB/s, reading {was_read} GB/s; a product in {row['dtype']} does {rate} TFLOP/s; handing a call "
        f"over takes {spread(metrics['launch_microseconds'], 1)} us. Times are {whose}."
    )


def operation_table(d: Mapping[str, Any], operation: str) -> str:
    """Every side at every shape of an operation."""
    rows = [row for row in d["rows"] if row.get("operation") == operation]
    header = [
        "heads",
        "batch",
        "prefix",
        "own",
        "read",
        "side",
        "time, us",
        "of the floor, %",
        "floor, us",
        "MB",
        "GFLOP",
    ]
    header += ["GB/s", "GFLOP/s", "compile, s", "difference", "loud rounds", "note"]
    lines = []
    for row in rows:
        metrics = row["metrics"]
        percent = {name: 100 * metrics["fraction_of_floor"][name] for name in ("median", "min", "max")}
        line = [heads(row), row["batch"], row["prefix"] or None, row["suffix"] or None]
        line += [row["read"] or None, f"**{row['side']}**"]
        line += [spread(metrics["microseconds"], 1), spread(percent, 0), median(metrics["floor_microseconds"], 1)]
        line += [f"{row['bytes'] / 1e6:.2f}", f"{row['flops'] / 1e9:.3f}"]
        line += [median(metrics[f"{name}_per_second"], 1) for name in ("gigabytes", "gigaflops")]
        line += [number(row["compile_seconds"], 2), f"{row['difference']:.0e}", loudness(row), row["note"]]
        lines.append(line)
    return markdown_table(header, lines)


def speed_ups_table(d: Mapping[str, Any]) -> str:
    """The fastest of ours beside every way that attends over copies."""
    cases = list(dict.fromkeys(row["case"] for row in d["rows"] if row.get("operation") == "whole_attention"))
    lines, others = [], dense_sides(d)
    for case in cases:
        ours = fastest(d, case)
        if ours is None:
            continue
        line = [heads(ours), ours["batch"], ours["prefix"], ours["suffix"], f"**{ours['side']}**"]
        line += [f"{ours['metrics']['microseconds']['median']:.1f}"]
        found = {
            row["side"]: row["ratios"][ours["side"]] for row in d["rows"] if row["case"] == case and row is not ours
        }
        lines.append(line + [spread(found[side], 2) if side in found else None for side in others])
    return markdown_table(
        ["heads", "batch", "prefix", "own", "ours", "us", *(f"{side} / ours" for side in others)], lines
    )


def dense_sides(d: Mapping[str, Any]) -> list[str]:
    """Who attends over copied prefixes in this result."""
    rows = [row for row in d["rows"] if row.get("operation") == "whole_attention"]
    return list(dict.fromkeys(row["side"] for row in rows if not row["side"].startswith("jaxdec-")))


def left_out(d: Mapping[str, Any]) -> list[str]:
    """Who was absent, and what was refused: a line for each side and reason."""
    lines = [f"Absent: {entry['side']} ({entry['reason']})." for entry in d["absent"]]
    refused: dict[tuple[str, str], list[str]] = {}
    for entry in d["refused"]:
        refused.setdefault((entry["side"], entry["reason"]), []).append(entry["case"])
    return lines + [f"Refused by {side}: {', '.join(cases)} ({reason})." for (side, reason), cases in refused.items()]


def heads(row: Mapping[str, Any]) -> str:
    """``query heads / key/value heads x width``."""
    return f"{row['num_heads']}/{row['num_kv_heads']} x {row['head_dim']}"


def median(samples: Mapping[str, Any], digits: int) -> str:
    """Of samples."""
    return f"{samples['median']:.{digits}f}"
