"""The chapter on precision of ``docs/evaluation.md``, and its figure. No number in it is typed by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from experiments.benchmarks.figures import STYLE
from experiments.evaluation.precision_quality import ALL
from experiments.record import markdown_table

ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
CHAPTER = """\
## What low precision costs and gives

    python -m experiments.evaluate --suite=precision --wait_quiet=20
    python -m experiments.evaluate --suite=precision --measure=timing --wait_quiet=20     the timing again

A model loaded in bfloat16 or int8 is declared approximate: its laws are not those of float32. What is exact is decoding
relative to the *same* low-precision model, so each of them has a plain step of its own to be compared with. How it is measured:

- float32 means the weights as they are read from the file. A file that is itself quantised (its name is in the table) has been
  rounded once before, in all dtypes alike; that is no part of the change.
- Three texts in windows of 512 tokens, each scored by itself; the first token of a window is context. `passages` are our own
  (no published model was trained on them); the other two may well have been read, and are there for the change alone.
- Change: perplexity over that of float32, less one, with the 95 % paired bootstrap interval over windows in brackets.
- KL: divergence of the law from float32's at each token scored, in nats. Same argmax: tokens at which the most likely guess is
  float32's. Both read the same text, so that nothing adds up.
- Greedy agreement: tokens before a greedy text leaves that of float32, on prompts of all families of `specbench`; a text that
  stays equal counts with its whole length. The 95 % bootstrap interval over prompts is in brackets.
- Times: dtypes take turns in one process, medians over rounds. A step is one compiled pass behind 256 committed tokens, the
  shortest of two in a round; T(n) is a pass over n tokens, and T(n) / T(1) is that dtype's own. Ratios are taken inside a
  round. Prefill is of 512 tokens, from token ids to the first new token. Rounds with foreign load above 0.1 cores are repeated,
  and counted as loud if they stay above it.

{% for document in documents %}
{{ section(document) }}
{% else %}
Not measured yet.
{% endfor %}
"""
SECTION = """\
### {{ d.model.name }}, {{ d.host }}, {{ d.date }}

{{ environment }}
**Targets**

{{ targets }}
**All texts**

{{ table }}
{% if sources %}
**By text**

{{ sources }}
{% endif %}
{% for name in figures %}
![{{ name }}](../benchmarks/results/evaluation/{{ name }})
{% endfor %}
"""


def read_precision(path: Path) -> dict[str, Any]:
    """A result and its ``stem``.

    Raises:
      ValueError: it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["smoke"], document["host"], document["date"], document["model"]["name"], document["weights_bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of the suite precision: {error!r}") from error
    return {**document, "stem": path.stem}


def precision_results(folder: Path, smoke: bool = False) -> list[dict[str, Any]]:
    """All results in a folder, oldest first."""
    found = [read_precision(path) for path in sorted(folder.glob("precision_*.json"))]
    return sorted((one for one in found if one["smoke"] == smoke), key=lambda one: one["date"])


def newest_precision_results(folder: Path) -> list[dict[str, Any]]:
    """The newest result of every model and sort of machine; smoke runs are left out."""
    newest = {(one["host"], one["model"]["name"]): one for one in precision_results(folder)}
    return [newest[key] for key in sorted(newest)]


def chapter(documents: Sequence[Mapping[str, Any]]) -> str:
    """The whole chapter."""
    return ENVIRONMENT.from_string(CHAPTER).render(documents=documents, section=precision_section)


def precision_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One result."""
    from experiments.evaluation.page import targets_table  # the page ends with this chapter

    return ENVIRONMENT.from_string(SECTION).render(
        d=d,
        environment=environment_table(d),
        targets=targets_table(d["targets"]),
        table=whole_table(d),
        sources=sources_table(d) if d["quality"] else "",
        figures=figure_names(d) if with_figures else [],
    )


def environment_table(d: Mapping[str, Any]) -> str:
    """Where and how it was measured: a column for each part."""
    parts = {name: d[name] for name in ("quality", "timing") if d[name]}
    names = dict.fromkeys(key for part in parts.values() for key in part["environment"])
    show = lambda value: ", ".join(value) if isinstance(value, list) else value  # noqa: E731
    lines = [[name.replace("_", " "), *(show(part["environment"][name]) for part in parts.values())] for name in names]
    lines.append(["weights read from", *[d["model"]["file"]] * len(parts)])
    if "timing" in parts:
        said = d["timing"]
        empty = [""] * (len(parts) - 1)
        lines += [
            ["rounds, loud ones", *empty, f"{said['rounds']}, {said['loud_rounds']}"],
            ["foreign load, largest of a round (median)", *empty, _load_text(said["foreign_load"])],
        ]
    return markdown_table(["", *parts], lines)


def _load_text(load: float | None) -> str:
    return "unknown" if load is None else f"{load:.2f}"


def whole_table(d: Mapping[str, Any]) -> str:
    """One line per dtype: what it costs and what it gives."""
    header = [
        "dtype",
        "weights, MB",
        "perplexity",
        "change",
        "KL, mean",
        "KL, max",
        "same argmax",
        "greedy agreement",
        "equal",
    ]
    header += ["step, ms", "/ float32", "T(4) / T(1)", "T(8) / T(1)", "T(16) / T(1)", "prefill, tokens/s", "/ float32"]
    lines = []
    for dtype, size in d["weights_bytes"].items():
        lines.append([dtype, f"{size / 1e6:.0f}", *_quality_cells(d, dtype), *_timing_cells(d, dtype)])
    return markdown_table(header, lines)


def _quality_cells(d: Mapping[str, Any], dtype: str) -> list[str]:
    if not d["quality"]:
        return ["-"] * 7
    row = next(row for row in d["quality"]["rows"] if (row["source"], row["dtype"]) == (ALL, dtype))
    agreed = next(row for row in d["quality"]["agreement"] if row["dtype"] == dtype)
    found, most = agreed["agreement"], d["quality"]["max_new_tokens"]
    same = f"{found['mean']:.0f} [{found['low']:.0f}, {found['high']:.0f}] of at most {most}"
    perplexity, compared = f"{row['perplexity']:.3f}", f"{agreed['equal']} of {agreed['compared']}"
    if dtype == d["reference"]:
        return [perplexity, *["-"] * 6]
    differences = [f"{row['kl']:.2g}", f"{row['kl_max']:.2g}", f"{row['same_argmax']:.2%}"]
    return [perplexity, change_text(row["change"]), *differences, same, compared]


def _timing_cells(d: Mapping[str, Any], dtype: str) -> list[str]:
    if not d["timing"]:
        return ["-"] * 7
    row = next(row for row in d["timing"]["rows"] if row["dtype"] == dtype)
    middle = lambda value, form: f"{value['median']:{form}}"  # noqa: E731
    relative = [middle(row["relative"][n], ".2f") for n in ("4", "8", "16")]
    step = [middle(row["step_ms"], ".1f"), middle(row["step_over_reference"], ".2f")]
    prefill = [middle(row["prefill_tokens_per_second"], ".0f"), middle(row["prefill_over_reference"], ".2f")]
    return [*step, *relative, *prefill]


def sources_table(d: Mapping[str, Any]) -> str:
    """One line per text and dtype."""
    lines = []
    for row in d["quality"]["rows"]:
        if row["source"] != ALL:
            same = row["dtype"] == d["reference"]
            about = f"`{row['source']}`: {d['texts'][row['source']]['about']}" if same else ""
            cells = ["-"] * 3 if same else [change_text(row["change"]), f"{row['kl']:.2g}", f"{row['same_argmax']:.2%}"]
            scored = f"{row['windows']}, {row['tokens_scored']}" if same else ""
            lines.append([about, scored, row["dtype"], f"{row['perplexity']:.3f}", *cells])
    header = ["text", "windows, tokens scored", "dtype", "perplexity", "change", "KL, mean", "same argmax"]
    return markdown_table(header, lines)


def change_text(change: Mapping[str, float]) -> str:
    """In percent, with the interval."""
    return f"{change['mean']:+.2%} [{change['low']:+.2%}, {change['high']:+.2%}]"


def figure_names(d: Mapping[str, Any]) -> list[str]:
    """File names of the figures of a result."""
    return [f"{d['stem']}_{kind}.svg" for kind, part in (("change", "quality"), ("steps", "timing")) if d[part]]


def draw_precision(d: Mapping[str, Any], folder: Path):
    """Write the figures of a result into ``folder``. The same result gives the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    for name in figure_names(d):
        with matplotlib.rc_context(STYLE):
            figure = (_change_figure if name.endswith("_change.svg") else _steps_figure)(plt, d)
            figure.savefig(folder / name, metadata={"Date": None})
            plt.close(figure)


def _change_figure(plt: Any, d: Mapping[str, Any]):
    """Change of perplexity by text, in percent, with its intervals."""
    figure, ax = plt.subplots(figsize=(4.8, 2.2), layout="constrained")
    rows = [row for row in d["quality"]["rows"] if row["dtype"] != d["reference"]]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    for number, dtype in enumerate(dtypes):
        changes = [row["change"] for row in rows if row["dtype"] == dtype]
        places = [index + (number - (len(dtypes) - 1) / 2) * 0.2 for index in range(len(sources))]
        means = [100 * change["mean"] for change in changes]
        errors = [[100 * abs(change["mean"] - change[end]) for change in changes] for end in ("low", "high")]
        ax.errorbar(places, means, errors, fmt="o", ms=3, lw=1, capsize=2, label=dtype)
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set_xticks(range(len(sources)), [source + " texts" if source == ALL else source for source in sources])
    ax.set_ylabel("change of perplexity, %")
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def _steps_figure(plt: Any, d: Mapping[str, Any]):
    """Milliseconds of a pass against its new tokens."""
    figure, ax = plt.subplots(figsize=(4.8, 2.2), layout="constrained")
    for row in d["timing"]["rows"]:
        counts = [int(n) for n in row["relative"]]
        times = [row["step_ms"]["median"] * row["relative"][str(n)]["median"] for n in counts]
        ax.plot(counts, times, marker="o", ms=3, lw=1, label=row["dtype"])
    ax.set(xlabel="new tokens of a pass", ylabel="ms", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right upper")
    return figure
