"""The chapter on long contexts of ``docs/evaluation.md``, and its figure. No number in it is typed by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from experiments.benchmarks.figures import STYLE
from experiments.record import markdown_table

ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
CHAPTER = """\
## Long contexts: rules that read or keep less

    python -m experiments.evaluate --suite=long_context --wait_quiet=20

Every rule on the same prompts, in one process, batch 1, in turns prompt by prompt ([long contexts](long_context.md)):

- Prompts are those of `jaxdec.evaluation.long_context` in natural text; the question stands before and behind the text. Behind
  the prompt comes the beginning of an answer, and up to eight candidates, of which the right one is to be the likeliest (mean
  log-probability of its tokens): a model of this size answers too few of these questions in free text to tell rules apart.
- Accuracy: share of prompts where it is, with the 95 % bootstrap interval over prompts. Answer: surprisal of the right one, in
  nats per token. Perplexity: of the tokens behind passages of as many tokens as the prompts, and its change against dense.
- What is scored is fed behind the prompt, and reads what the rule has kept. Rules for prompts have done their part by then.
- Skipped: of prompts, the share of the causal cells that is not computed; while decoding, the share of the prompt that a step
  does not read. Means over layers, heads and prompts.
- Cache: bytes held behind the prompt, with the room that is reserved for what follows.
- Times are medians over prompts after compiling, ratios are taken prompt by prompt. A step feeds one token.

{% for document in documents %}
{{ section(document) }}
{% else %}
Not measured yet.
{% endfor %}
"""
SECTION = """\
### {{ d.model.name }}, prompts of up to {{ d.tokens }} tokens, {{ d.host }}, {{ d.date }}

{{ environment }}
{{ table }}
**Accuracy by task**

{{ tasks }}
{% for name in figures %}
![{{ name }}](../benchmarks/results/evaluation/{{ name }})
{% endfor %}
"""
SHOWN = ("date", "commit", "dirty", "jax", "cpu_model", "cores")


def read_long_context(path: Path) -> dict[str, Any]:
    """A result and its ``stem``.

    Raises:
      ValueError: it is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["smoke"], document["host"], document["model"]["name"], document["rows"], document["rules"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result of the suite long_context: {error!r}") from error
    return {**document, "stem": path.stem}


def newest_long_context_results(folder: Path) -> list[dict[str, Any]]:
    """The newest result of every model, length and sort of machine; smoke runs are left out."""
    found = [read_long_context(path) for path in sorted(folder.glob("long_context_*.json"))]
    newest = {
        (one["host"], one["model"]["name"], one["tokens"]): one
        for one in sorted(found, key=lambda one: one["date"])
        if not one["smoke"]
    }
    return [newest[key] for key in sorted(newest)]


def chapter(documents: Sequence[Mapping[str, Any]]) -> str:
    """The whole chapter."""
    return ENVIRONMENT.from_string(CHAPTER).render(documents=documents, section=long_context_section)


def long_context_section(d: Mapping[str, Any], with_figures: bool = True) -> str:
    """One result."""
    environment = d["environment"]
    lines = [[name.replace("_", " "), environment[name]] for name in SHOWN if name in environment]
    lines.append(["prompts", ", ".join(f"{count} {task}" for task, count in d["prompts"].items())])
    return ENVIRONMENT.from_string(SECTION).render(
        d=d,
        environment=markdown_table(["", ""], lines),
        table=rules_table(d),
        tasks=tasks_table(d),
        figures=figure_names(d) if with_figures else [],
    )


def rules_table(d: Mapping[str, Any]) -> str:
    """One line per rule."""
    header = ["rule", "asked for as", "accuracy", "answer, nats", "perplexity", "change", "skipped of prompts",
              "skipped of steps", "cache, MB", "prefill, s", "/ dense", "step, ms", "/ dense"]  # fmt: skip
    asked = {rule["name"]: rule for rule in d["rules"]}
    lines = []
    for row in d["rows"]:
        rule, accuracy, change = asked[row["rule"]], row["accuracy"], row["perplexity_change"]
        flags = [f"`--{name}={rule[name]}`" for name in ("attention", "kv_cache") if rule[name]]
        lines.append(
            [
                row["rule"],
                " ".join(flags) or "-",
                f"{accuracy['mean']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}]",
                f"{row['answer_surprisal']:.2f}",
                f"{row['perplexity']:.2f}",
                f"{change['mean']:+.1%}" if flags else "-",
                f"{row['prefill_sparsity']:.0%}",
                f"{row['decode_sparsity']:.0%}",
                f"{row['cache_bytes'] / 1e6:.1f}",
                f"{row['prefill_seconds']:.2f}",
                f"{row['prefill_over_reference']:.2f}",
                f"{1000 * row['step_seconds']:.1f}",
                f"{row['step_over_reference']:.2f}",
            ]
        )
    return markdown_table(header, lines)


def tasks_table(d: Mapping[str, Any]) -> str:
    """Accuracy of each rule in each task, and of guessing."""
    tasks = list(d["chance"])
    lines = [[row["rule"], *(f"{row['accuracy_by_task'][task]:.2f}" for task in tasks)] for row in d["rows"]]
    lines.append(["guessing", *(f"{d['chance'][task]:.2f}" for task in tasks)])
    return markdown_table(["rule", *tasks], lines)


def figure_names(d: Mapping[str, Any]) -> list[str]:
    """File names of the figures of a result."""
    return [f"{d['stem']}_tradeoff.svg"]


def draw_long_context(d: Mapping[str, Any], folder: Path):
    """Write the figure of a result into ``folder``. The same result gives the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.6), layout="constrained", sharey=True)
        dense = d["rows"][0]
        for number, row in enumerate(d["rows"]):
            colour = {"color": f"C{number % 10}", "marker": "os"[number // 10 % 2], "s": 14}
            axes[0].scatter(
                row["cache_bytes"] / dense["cache_bytes"], row["answer_surprisal"], label=row["rule"], **colour
            )
            skipped = max(row["prefill_sparsity"], row["decode_sparsity"])
            axes[1].scatter(skipped, row["answer_surprisal"], **colour)
        axes[0].set(xlabel="bytes of the cache / dense", ylabel="surprisal of the answer, nats")
        axes[1].set(xlabel="share skipped, of the prompt or of a step")
        figure.legend(frameon=False, loc="outside right upper", fontsize=7)
        figure.savefig(folder / figure_names(d)[0], metadata={"Date": None})
        plt.close(figure)
