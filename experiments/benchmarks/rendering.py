"""Pages from results: ``docs/benchmarks.md``, ``docs/papers.md``, ``docs/evaluation.md`` and the figures.

No number in them is typed by hand.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from experiments.benchmarks import figures
from experiments.benchmarks.kernels import figures as kernel_figures
from experiments.benchmarks.kernels.page import kernels_section
from experiments.benchmarks.long_context import page as rule_times
from experiments.benchmarks.papers_page import papers_page
from experiments.benchmarks.tables import environment_table, load, loudness, number, ratio, spread, targets_table
from experiments.benchmarks.training import page as training
from experiments.evaluation import figures as evaluation_figures
from experiments.evaluation import long_context_page as long_context
from experiments.evaluation import page as evaluation
from experiments.evaluation import precision_page as precision
from experiments.record import markdown_table, write_text

SUITES = ("cpu_decode", "gpu_decode", "kernels", "long_context", "training")
ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)

PAGE = """\
# Benchmarks

Written by `python -m experiments.benchmark --render` from the JSON files in `benchmarks/results/`, which hold every sample.
No number here is typed by hand.

## How it is measured

- Every engine runs in a process of its own, loads once, warms up, and sleeps until it is its turn. In a round the engines
  take turns; every other round runs backwards, and every two rounds begin with the next engine. Ratios are taken inside a
  round; tables show the median over the rounds, with the smallest and the largest in brackets.
- Decoding: new tokens after the first, over the time from the first to the last. Prefill: prompt tokens, over the time from
  token ids to the first new token. Greedy, batch 1, end tokens ignored, the same token ids and the same GGUF file for all;
  all engines have as many threads as the machine has processors. Compiling and loading are not in these times; `compile` is
  that of the warm-up, nothing read from a cache. Peak memory is the largest resident set while the case was warmed up.
- Foreign load is what other processes and the hypervisor took during a measurement, in cores. A round above 0.1 is repeated;
  rounds that stayed above it are counted as loud.
- Machines differ, so compare ratios inside one table, never figures between tables.

## Decoding on a processor

    python -m experiments.benchmark --suite=cpu_decode --wait_quiet=60

{% for document in cpu_decode %}
{{ cpu_section(document) }}
{% else %}
Not measured yet.

{% endfor %}
## Decoding on a GPU

    python -m experiments.benchmark --suite=gpu_decode

Random bfloat16 weights in Llama-3-8B's shape: the time of a step does not depend on what it says. A step must read the
weights once and the keys and values of every row; these bytes over the time of a step are held against the bandwidth of a
plain copy (read and write counted) in the same round.

{% for document in gpu_decode %}
{{ gpu_section(document) }}
{% else %}
Not measured yet.

{% endfor %}
## Kernels

    python -m experiments.benchmark --suite=kernels --wait_quiet=60

Every operation of `pallas_kernels` by every backend that takes the arguments, in turns with attention over a cache in which
each row has a copy of the prefix: `jax.nn` (XLA, cuDNN), PyTorch, and our own (`copied`). The floor is the longer of two times:
moving the bytes (each input read once, each result written once) at the bandwidth of a copy or of reading, whichever is
higher, and doing the operations at the rate of a matrix product; all three are measured in the same round and type. Inputs
take turns, so that none is found in a cache. Times are the device's own where it keeps any, else those of a call on the host,
which hold what it costs to hand it over. What is wrong by more than rounding is not timed; `difference` is the largest from
float64, on fewer rows and keys.

{% for document in kernels %}
{{ kernels_section(document) }}
{% else %}
Not measured yet.

{% endfor %}
## Long contexts

    python -m experiments.benchmark --suite=long_context --wait_quiet=60

What rules that read or keep less of a long context cost, in turns with dense attention in the same process. Steps feed one
token per row behind random entries; prompts are random, and go through the first layers of the model. Quality is measured
elsewhere: `python -m experiments.evaluate --suite=long_context`.

{% for document in long_context %}
{{ long_context_section(document) }}
{% else %}
Not measured yet.

{% endfor %}
## Training

    python -m experiments.benchmark --suite=training --wait_quiet=60

Updates of the trainer in turns with those of a loop written by hand: batches read, gradients taken, parameters moved, and
nothing else. AdamW, no checkpoints, the data of the configs.

{% for document in training %}
{{ training_section(document) }}
{% else %}
Not measured yet.
{% endfor %}
"""

CPU_SECTION = """\
### {{ d.host }}, {{ d.date }}

{{ environment }}
**Targets**

{{ targets }}
**Greedy decoding, batch 1**

{{ decode }}
**Prefill**

{{ prefill }}
{% if has_steps %}
**Cost of a step against its new tokens**, behind {{ context }} committed tokens; the floor is the time to read the weights
once: summing every weight array as it lies, in one program on all cores (in brackets: as many bytes in one array).

{{ steps }}
{% endif %}
{% if cold %}
**Cold start** of `python -m experiments.generate`, files and compiled programs cached: {{ cold }}

{% endif %}
{% if agreement %}
**Same text?** {{ agreement }}

{% endif %}
{% for entry in d.absent %}
Absent: {{ entry.side }} ({{ entry.reason }}).

{% endfor %}
{% if figures %}
{% for name in figures %}
![{{ name }}](../benchmarks/results/{{ name }})
{% endfor %}
{% endif %}
"""

GPU_SECTION = """\
### {{ d.host }}, {{ d.date }}

{{ environment }}
{{ table }}
Copy bandwidth in the same rounds: {{ copy }} GB/s.
"""


def render(results: Path, docs: Path, *, check: bool, console: Console) -> int:
    """Write the pages and figures, or with ``check`` compare the pages and look for the figures. Returns an exit status.

    The bytes of a figure depend on matplotlib's version, so that a check on another machine could not compare them.

    Raises:
      FileNotFoundError: there is no folder ``results``.
      ValueError: a result file is not what it should be.
    """
    if not results.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {results}")
    newest = {suite: newest_results(results, suite) for suite in SUITES}
    evaluations = evaluation.newest_results(results / "evaluation")
    precisions = precision.newest_precision_results(results / "evaluation")
    contexts = long_context.newest_long_context_results(results / "evaluation")
    pages = {
        docs / "benchmarks.md": benchmarks_page(newest),
        docs / "papers.md": papers_page(results / "papers"),
        docs / "evaluation.md": evaluation.evaluation_page(evaluations, precisions, contexts),
    }
    if check:
        stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
        drawn = [results / name for document in newest["cpu_decode"] for name in figures.names(document)]
        drawn += [results / name for document in newest["kernels"] for name in kernel_figures.names(document)]
        drawn += [results / name for document in newest["long_context"] for name in rule_times.names(document)]
        drawn += [results / name for document in newest["training"] for name in training.names(document)]
        drawn += [
            results / "evaluation" / name for document in evaluations for name in evaluation_figures.names(document)
        ]
        drawn += [results / "evaluation" / name for document in precisions for name in precision.figure_names(document)]
        drawn += [
            results / "evaluation" / name for document in contexts for name in long_context.figure_names(document)
        ]
        stale += [path for path in drawn if not path.is_file()]
        for path in stale:
            what = "is not what the results say" if path.is_file() else "is missing"
            say(console, f"{path} {what}: run python -m experiments.benchmark --render")
        if not stale:
            say(console, f"{' and '.join(map(str, pages))} are what the results in {results} say")
        return 1 if stale else 0
    for document in newest["cpu_decode"]:
        figures.draw(document, results)
    for document in newest["kernels"]:
        kernel_figures.draw(document, results)
    for document in newest["long_context"]:
        rule_times.draw(document, results)
    for document in newest["training"]:
        training.draw(document, results)
    for document in evaluations:
        evaluation_figures.draw(document, results / "evaluation")
    for document in precisions:
        precision.draw_precision(document, results / "evaluation")
    for document in contexts:
        long_context.draw_long_context(document, results / "evaluation")
    for path, text in pages.items():
        write_text(path, text)
        say(console, f"wrote {path}")
    return 0


def say(console: Console, text: str):
    """Print one line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def newest_results(results: Path, suite: str) -> list[dict[str, Any]]:
    """The newest result of every sort of machine, smoke runs left out, by name of machine.

    Raises:
      ValueError: a file is no result.
    """
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob(f"{suite}_*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            smoke, host, date = document["smoke"], document["host"], document["date"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a result of a suite: {error!r}") from error
        if not smoke and date >= newest.get(host, {"date": ""})["date"]:
            newest[host] = {**document, "stem": path.stem}
    return [newest[host] for host in sorted(newest)]


def benchmarks_page(newest: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The whole page."""
    sections: dict[str, Callable[..., str]] = {"cpu_section": cpu_section, "gpu_section": gpu_section}
    sections |= {"kernels_section": kernels_section, "long_context_section": rule_times.long_context_section}
    sections["training_section"] = training.training_section
    return ENVIRONMENT.from_string(PAGE).render(**newest, **sections).rstrip() + "\n"


def show(path: Path, console: Console):
    """Print a result as the page would show it."""
    document = {**json.loads(path.read_text(encoding="utf-8")), "stem": path.stem}
    sections = {"gpu_decode": gpu_section, "kernels": lambda d: kernels_section(d, with_figures=False)}
    sections["long_context"] = lambda d: rule_times.long_context_section(d, with_figures=False)
    sections["training"] = lambda d: training.training_section(d, with_figures=False)
    sections["cpu_decode"] = lambda d: cpu_section(d, with_figures=False)
    say(console, sections[document["suite"]](document))


def cpu_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One machine's results."""
    steps = [row for row in d["rows"] if row["case"] == "step_cost"]
    return ENVIRONMENT.from_string(CPU_SECTION).render(
        d=d,
        environment=environment_table(d),
        targets=targets_table(d["targets"]),
        decode=rates_table(d, "decode"),
        prefill=rates_table(d, "prefill"),
        has_steps=bool(steps),
        context=steps[0]["prompt_tokens"] if steps else 0,
        steps=steps_table(steps) if steps else "",
        cold=cold_start_text(d),
        agreement=agreement_text(d.get("agreement")),
        figures=figures.names(d) if with_figures else [],
    )


def gpu_section(d: Mapping[str, Any]) -> str:
    """One device's results."""
    header = ["batch", "context", "tokens/s", "step, ms", "weights + KV read, GB", "GB/s", "of the copy", "loud rounds"]
    lines = []
    for row in d["rows"]:
        if row["case"] != "copy":
            read, metrics = row["bytes_per_step"], row["metrics"]
            gigabytes = f"{read['weights'] / 1e9:.2f} + {read['kv'] / 1e9:.2f}"
            fraction = spread(metrics["fraction_of_copy"], 2)
            step, rate = spread(metrics["step_ms"], 2), spread(metrics["gigabytes_per_second"], 0)
            tokens = spread(metrics["tokens_per_second"], 1)
            quiet = loudness(row)
            lines.append([row["batch"], row["prompt_tokens"], tokens, step, gigabytes, rate, fraction, quiet])
    copy = next(row for row in d["rows"] if row["case"] == "copy")["metrics"]["gigabytes_per_second"]
    text = ENVIRONMENT.from_string(GPU_SECTION)
    return text.render(d=d, environment=environment_table(d), table=markdown_table(header, lines), copy=spread(copy, 0))


def rates_table(d: Mapping[str, Any], case: str) -> str:
    """Tokens per second of every engine, and how many times faster or slower than our float32 and than each peer."""
    rows = [row for row in d["rows"] if row["case"] == case]
    others = [row["side"] for row in rows]
    header = ["engine", "version", "prompt", "new", "tokens/s", *(f"/ {side}" for side in others)]
    header += ["tokens per call", "compile, s", "peak memory, MB", "foreign load", "loud rounds", "note"]
    lines = []
    for row in rows:
        ratios = [f"{row['ratios'][side]['median']:.2f}" if side in row["ratios"] else "1" for side in others]
        line = [f"**{row['side']}**", row["engine_version"], row["prompt_tokens"], row["new_tokens"] or 1]
        line += [spread(row["metrics"]["tokens_per_second"], 1), *ratios, number(row["tokens_per_call"], 2)]
        peak = row["peak_rss_bytes"]
        line += [
            number(row["compile_seconds"], 1),
            number(peak and peak / 1e6, 0),
            load(row),
            loudness(row),
            row["note"],
        ]
        lines.append(line)
    return markdown_table(header, lines)


def steps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds by new tokens; the floor and the ratio to it last."""
    header = ["new tokens"] + [text for row in rows for text in (f"{row['dtype']}, ms", "T(n) / T(1)")]
    counts = [name.removeprefix("ms_") for name in rows[0]["metrics"] if name.startswith("ms_")]
    lines = [
        [n] + [text for row in rows for text in (spread(row["metrics"][f"ms_{n}"], 1), ratio(row, f"relative_{n}"))]
        for n in counts
    ]
    floor = ["floor"]
    over = ["one step / floor"]
    for row in rows:
        metrics = row["metrics"]
        floor += [f"{spread(metrics['floor_ms'], 1)} [{metrics['flat_floor_ms']['median']:.1f}]", ""]
        over += ["", f"{ratio(row, 'step_over_floor')} [{metrics['step_over_flat_floor']['median']:.2f}]"]
    return markdown_table(header, [*lines, floor, over])


def cold_start_text(d: Mapping[str, Any]) -> str:
    """One sentence, or nothing; ``compile_seconds`` is what is left of compiling when programs come from the cache."""
    row = next((row for row in d["rows"] if row["case"] == "cold_start"), None)
    if row is None:
        return ""
    metrics = row["metrics"]
    memory = metrics["peak_rss_bytes"]["median"]
    times = f"{spread(metrics['first_text_seconds'], 1)} s to the first text, {spread(metrics['total_seconds'], 1)} s in all"
    weights = f"{memory / d['model']['weights_bytes']:.2f} times the float32 weights"
    programs = (
        ""
        if row["compile_seconds"] is None
        else f", of which tracing and reading programs {row['compile_seconds']:.1f} s"
    )
    quiet = f"foreign load {load(row)} cores, loud rounds {loudness(row)}"
    return f"{times}{programs}; peak memory {memory / 1e6:.0f} MB, {weights}; {quiet}."


def agreement_text(agreement: Mapping[str, Any] | None) -> str:
    """One sentence, or nothing."""
    if agreement is None:
        return ""
    ours, theirs = agreement["sides"]
    if agreement["equal"]:
        return f"{ours} and {theirs} write the same {agreement['tokens']} tokens."
    gaps = f"{agreement['gap_ours']:.2g} by our logits, {agreement['gap_theirs']:.2g} by theirs"
    return f"{ours} and {theirs} first differ at token {agreement['first_difference']}; each prefers its own: {gaps}."
