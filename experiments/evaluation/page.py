"""``docs/evaluation.md`` from the results. No number in it is typed by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from experiments.evaluation import figures, long_context_page, precision_page
from experiments.evaluation.prompts import COPY_HEAVY
from experiments.evaluation.summary import ALL
from experiments.record import markdown_table

ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
PAGE = """\
# Evaluation

Written by `python -m experiments.benchmark --render` from the JSON files in `benchmarks/results/evaluation/`. No number here is
typed by hand.

## Speculative methods on families of prompts

    python -m experiments.corpora --out=corpora
    python -m experiments.evaluate --suite=specbench --wait_quiet=20 --text='corpora/*.txt'

In the manner of Spec-Bench (Xia et al. 2024, arXiv 2401.07851), on prompts of our own: six families of eight, and two domains
of twenty for what adapts. The answers to `summarise`, `extract` and `edit` copy much of the prompt. How it is measured:

- Greedy, batch 1. All arms decode a prompt in turn, in one process, before the next prompt begins; the order changes from
  round to round. All shapes are compiled before. llama.cpp, where it takes part, has a process of its own, sleeps until it is
  its turn, decodes the same token ids with the same file, and is asked for as many tokens as plain decoding gives.
- Tokens per call: all tokens of a family over all forward passes of the target, the prefill among them; plain decoding has 1,
  and Spec-Bench calls it mean accepted tokens.
- Speed-up: tokens per second over those of our own plain decoding in the same round; the median over rounds, then the mean over
  prompts, with the 95 % bootstrap interval over prompts in brackets. Decoding counts from the first token to the last. With the
  prefill, the ratio of mean rates is given too, which is how Spec-Bench's own script has it.
- Equal: outputs whose token ids are those of plain decoding. Where one differs, the gap between the target's two best logits at
  the first difference tells whether that was a tie.
- Cost of drafting: propose and observe alone, in a compiled loop, over the time of a target step over one token. Checking
  guesses and choosing the size of a tree are not in it; they are in the speed-ups.
- The memory of `suffix_retrieval` and of the ADED arms is made of the model's own greedy outputs to *other* prompts, those of
  the same family among them (the best match that can be had), and of the files of text that are named below, if any.
- Foreign load is what other processes took, in cores; rounds above 0.1 are repeated, and counted as loud if they stay above it.

{% for document in documents %}
{{ section(document) }}
{% else %}
Not measured yet.
{% endfor %}
"""
SECTION = """\
### {{ d.model.name }}, {{ d.model.dtype }}, {{ d.host }}, {{ d.date }}

{{ environment }}
**Targets**

{{ targets }}
**Arms**

{{ arms }}
**Tokens per call**

{{ tokens_per_call }}
**Speed-up over plain decoding, decoding alone**

{{ speedups }}
{% if over_peer %}
**Tokens per second over those of llama.cpp's plain decoding**

{{ over_peer }}
{% endif %}
**Over all families**

{{ totals }}
**Differences from plain decoding.** {{ differences }}

**Acceptance by depth**, over all families: of the steps in which a node of the depth was fed, those in which one was accepted.

{{ acceptance }}
**Cost of drafting**

{{ drafting }}
**Cost of a step** over n tokens, in steps over one (measured in this run, and what `auto` chooses by): {{ step_cost }}

{% if d.adaptation %}
**Adaptation.** ADED with trees of {{ d.adaptation[0].nodes }} nodes over the prompts of a domain in order, the adaptive table
handed on from prompt to prompt; the static table knows outputs to the families' prompts only.

{{ adaptation }}
{% endif %}
{% for entry in d.absent %}
Absent: {{ entry.side }} ({{ entry.reason }}).

{% endfor %}
{% for name in figures %}
![{{ name }}](../benchmarks/results/evaluation/{{ name }})
{% endfor %}
"""


def read_result(path: Path) -> dict[str, Any]:
    """A result and its ``stem``.

    Raises:
      ValueError: it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["smoke"], document["host"], document["date"], document["model"]["name"], document["model"]["dtype"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of an evaluation: {error!r}") from error
    return {**document, "stem": path.stem}


def newest_results(folder: Path) -> list[dict[str, Any]]:
    """The newest result of every model, dtype and sort of machine; smoke runs are left out."""
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("specbench_*.json")):
        document = read_result(path)
        key = (document["host"], document["model"]["name"], document["model"]["dtype"])
        if not document["smoke"] and document["date"] >= newest.get(key, {"date": ""})["date"]:
            newest[key] = document
    return [newest[key] for key in sorted(newest)]


def evaluation_page(
    documents: Sequence[Mapping[str, Any]],
    precision: Sequence[Mapping[str, Any]] = (),
    long_context: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole page: results of ``specbench``, then those of ``precision`` and ``long_context``."""
    speculative = ENVIRONMENT.from_string(PAGE).render(documents=documents, section=section)
    chapters = (speculative, precision_page.chapter(precision), long_context_page.chapter(long_context))
    return "\n\n".join(chapter.rstrip() for chapter in chapters) + "\n"


def section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One result."""
    return ENVIRONMENT.from_string(SECTION).render(
        d=d,
        environment=environment_table(d),
        targets=targets_table(d["targets"]),
        arms=arms_table(d),
        tokens_per_call=by_family(d["rows"], lambda row: f"{row['tokens_per_call']:.2f}"),
        speedups=by_family([row for row in d["rows"] if row.get("speedup")], lambda row: interval(row["speedup"])),
        over_peer=by_family(d["over_peer"], lambda row: interval(row["ratio"])) if d["over_peer"] else "",
        totals=totals_table(d),
        differences=differences_text(d),
        acceptance=acceptance_table(d),
        drafting=drafting_table(d["drafting"]),
        step_cost=step_cost_text(d["step_cost"]),
        adaptation=adaptation_table(d["adaptation"]),
        figures=figures.names(d) if with_figures else [],
    )


def environment_table(d: Mapping[str, Any]) -> str:
    """Where and how it was measured."""
    lines = [
        [key.replace("_", " "), ", ".join(value) if isinstance(value, list) else value]
        for key, value in d["environment"].items()
    ]
    load = (
        "unknown"
        if d["foreign_load"] is None
        else f"{d['foreign_load']['median']:.2f} (to {d['foreign_load']['max']:.2f})"
    )
    lines += [
        ["new tokens", f"at most {d['max_new_tokens']}"],
        ["rounds", d["rounds"]],
        ["prompts, loud rounds of them", f"{d['loud_rounds']} of {d['rounds_in_all']}"],
        ["foreign load, largest of a prompt's round", load],
        *memory_lines(d),
        *([name, said["version"]] for name, said in d["peer"].items()),
    ]
    return markdown_table(["", ""], lines)


def memory_lines(d: Mapping[str, Any]) -> list[list[str]]:
    """What the memory of drafters was made of."""
    memory = d["collection"]
    outputs = f"{memory['texts']} with {memory['tokens']:,} tokens, for each prompt three quarters of them"
    files = [[f"memory: {file['name']}", f"{file['tokens']:,} tokens"] for file in memory["files"]]
    return [["memory: outputs", outputs], *files]


def targets_table(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Target beside measurement."""
    lines = []
    for verdict in verdicts:
        sign = "more than" if verdict["bound"] == 0 else "at least" if verdict["at_least"] else "at most"
        reached = {True: "yes", False: "**no**", None: "-"}[verdict["reached"]]
        measured = verdict["reason"] if verdict["measured"] is None else f"{verdict['measured']:.3g}"
        lines.append([verdict["name"], f"{sign} {verdict['bound']:g}", measured, verdict["where"], reached])
    return markdown_table(["what", "target", "measured", "where", "reached"], lines)


def arms_table(d: Mapping[str, Any]) -> str:
    """What the names mean."""
    lines = [
        [f"`{name}`", arm["about"], arm["guarantee"], "yes" if arm["timed"] else "no", f"{arm['compile_seconds']:.0f}"]
        for name, arm in d["arms"].items()
    ]
    return markdown_table(["arm", "what it does", "guarantee", "timed", "compile or read cache, s"], lines)


def by_family(rows: Sequence[Mapping[str, Any]], cell: Any) -> str:
    """Arms down, families across; families that are copied from are marked."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    cells = {(row["arm"], row["family"]): cell(row) for row in rows}
    arms = dict.fromkeys(row["arm"] for row in rows)
    header = ["arm", *(f"{family} (copies)" if family in COPY_HEAVY else family for family in families)]
    return markdown_table(
        header, [[f"`{arm}`", *(cells.get((arm, family), "-") for family in families)] for arm in arms]
    )


def totals_table(d: Mapping[str, Any]) -> str:
    """One line per arm."""
    header = ["arm", "tokens/s", "prefill, ms", "speed-up", "with prefill", "Spec-Bench's ratio", "tokens per call"]
    lines = []
    for row in (row for row in d["rows"] if row["family"] == ALL):
        wasted = "-" if row["wasted_share"] is None else f"{row['wasted_share']:.0%}"
        same = d["differences"].get(row["arm"])
        equal = "-" if same is None else f"{same['equal']} of {same['compared']}"
        timed = row.get("speedup")
        numbers = ["-"] * 5
        if timed:
            rate, prefill = f"{row['tokens_per_second']:.1f}", f"{row['prefill_ms']:.0f}"
            numbers = [
                rate,
                prefill,
                interval(timed),
                interval(row["speedup_total"]),
                f"{row['speedup_spec_bench']:.2f}",
            ]
        lines.append([f"`{row['arm']}`", *numbers, f"{row['tokens_per_call']:.2f}", wasted, equal])
    for row in (row for row in d["peer_rows"] if row["family"] == ALL):
        lines.append([row["arm"], f"{row['tokens_per_second']:.1f}", *["-"] * 7])
    return markdown_table([*header, "nodes wasted", "equal"], lines)


def differences_text(d: Mapping[str, Any]) -> str:
    """One sentence for each arm whose texts are not all those of its baseline."""
    sentences = []
    for arm, said in d["differences"].items():
        for entry in said["unequal"]:
            verdict = "a tie" if entry["tie"] else "**no tie**"
            where = f"{entry['prompt']} at token {entry['position']}"
            sentences.append(f"`{arm}`, {where}: gap {entry['gap']:.2g}, {verdict}.")
    limits = ", ".join(f"{tie:g} in {dtype}" for dtype, tie in d["tie"].items())
    found = " ".join(sentences) or "There are none."
    return f"A gap of at most {limits} between the two best logits counts as a tie. {found}"


def acceptance_table(d: Mapping[str, Any]) -> str:
    """Depths across, up to 8."""
    rows = [row for row in d["rows"] if row["family"] == ALL and row["acceptance"]]
    depth = min(8, max((len(row["acceptance"]) for row in rows), default=0))
    lines = [
        [f"`{row['arm']}`", *("-" if a is None else f"{a:.2f}" for a in (row["acceptance"] + [None] * depth)[:depth])]
        for row in rows
    ]
    return markdown_table(["arm", *map(str, range(1, depth + 1))], lines) if rows else "No arm drafts.\n"


def drafting_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """Behind a short and a long prompt."""
    lines = [
        [f"`{c['arm']}`", c["prompt_tokens"], f"{c['drafting_ms']:.3f}", f"{c['step_ms']:.1f}", f"{c['share']:.1%}"]
        for c in costs
    ]
    return markdown_table(["arm", "prompt tokens", "drafting, ms", "target step, ms", "share"], lines)


def step_cost_text(costs: Mapping[str, Mapping[str, float]]) -> str:
    """One line per dtype."""
    lines = [f"{dtype}: " + ", ".join(f"{n}: {cost:.2f}" for n, cost in by.items()) for dtype, by in costs.items()]
    return "; ".join(lines) + "."


def adaptation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per domain."""
    header = ["domain", "prompts", "static", "adaptive", "adaptive, cold", "gap", "gap, first half", "second half"]
    lines = []
    for row in rows:
        slope = row["trend"]
        signed = "-" if slope is None else f"{slope['slope']:+.4f} [{slope['low']:+.4f}, {slope['high']:+.4f}]"
        means = [f"{row['mean'][arm]:.2f}" for arm in ("static", "adaptive", "adaptive_cold")]
        halves = [f"{row['gap_first_half']:+.3f}", f"{row['gap_second_half']:+.3f}"]
        lines.append([row["domain"], len(row["ids"]), *means, interval(row["gap"], "+.3f"), *halves, signed])
    return markdown_table([*header, "gap's slope per prompt"], lines)


def interval(values: Mapping[str, float], form: str = ".2f") -> str:
    """``mean [low, high]``."""
    return f"{values['mean']:{form}} [{values['low']:{form}}, {values['high']:{form}}]"
