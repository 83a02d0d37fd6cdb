"""Suite ``long_context``: rules that read or keep less of a long context, all in one table.

Prompts of :mod:`jaxdec.evaluation.long_context` in natural text, and passages that go on. Every rule takes its turn on each
prompt before the next prompt begins, in this one process. Finished prompts are kept in a folder beside the result until that
is written.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxdec
from experiments.benchmarks.machine import host_tag, wait_quiet
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.evaluation.long_context_rows import REFERENCE, ROWS, SMOKE_ROWS, Row
from experiments.evaluation.long_context_scoring import STEPS, Continuations, measure, prepared
from experiments.evaluation.long_context_summary import summarise
from experiments.evaluation.precision_texts import source_texts
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.record import environment, sources_digest, write_json, write_text
from jaxdec.checkpoints.registry import resolve
from jaxdec.evaluation.long_context import LONG_CONTEXT_TASKS, Sample
from jaxdec.generation import encode_prompt
from jaxdec.loading import LoadedModel

SCHEMA = 1
TASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "needle, 4 others": ("needle", {"distractors": 4}),
    "needle, 16 others": ("needle", {"distractors": 16}),
    "variable_tracking": ("variable_tracking", {"num_chains": 3, "num_hops": 1}),
    "story_retrieval": ("story_retrieval", {}),
    "story_filtering": ("story_filtering", {}),
}
"""Names in the result, tasks and their options."""
SMOKE_TASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "needle": ("needle", {"num_queries": 1, "distractors": 2}),
    "variable_tracking": ("variable_tracking", {"num_chains": 2, "num_hops": 1}),
}
PASSAGE_TOKENS = 48
"""Of a passage, behind the prompt, whose surprisal is measured."""
SMOKE_TOKENS = 768


@dataclasses.dataclass(frozen=True)
class LongContextOptions:
    """What the command line asks for.

    Attributes:
      out: folder of the result.
      model: what :func:`jaxdec.load` takes.
      tokens: of a prompt and of the steps that are timed behind it, at most: a power of two is one bucket of shapes.
      limit: prompts per task, and passages.
      wait_quiet: seconds to wait for a quiet machine before each prompt.
      seed: of the prompts.
      smoke: a tiny random model, short prompts, few rules; no claim.
    """

    out: Path
    model: str = "smollm2-135m-instruct"
    tokens: int = 1024
    limit: int | None = 3
    wait_quiet: float = 0.0
    seed: int = 0
    smoke: bool = False


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt in token ids and what may follow.

    Attributes:
      name: of the prompt.
      task: its task, or ``"passage"``.
      tokens: of the prompt.
      ways: ways to go on, the right one first: tokens that are given, and tokens whose likelihood counts.
    """

    name: str
    task: str
    tokens: Sequence[int]
    ways: Sequence[tuple[Sequence[int], Sequence[int]]]


def run(options: LongContextOptions, console: Console, show: Progress) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      ValueError: prompts that are too short for a task or a rule, or too long for the model.
      OSError: files that cannot be read or written.
    """
    with _model(options) as (lm, file):
        rows = SMOKE_ROWS if options.smoke else ROWS
        asked = questions(lm, options)
        parts = _parts(options, asked, rows, file)
        found = measured(lm, asked, rows, parts, options.wait_quiet, show)
    surroundings = environment()
    document = {
        "schema": SCHEMA,
        "suite": "long_context",
        "smoke": options.smoke,
        "host": host_tag(),
        "date": surroundings["date"][:10],
        "environment": surroundings,
        "model": {"name": options.model, "file": file, "num_params": lm.model.num_params()},
        "tokens": options.tokens,
        "seed": options.seed,
        "rules": [dataclasses.asdict(row) for row in rows],
        "prompts": {task: sum(one.task == task for one in asked) for task in dict.fromkeys(one.task for one in asked)},
        "chance": {
            task: float(np.mean([1 / len(one.ways) for one in asked if one.task == task]))
            for task in dict.fromkeys(one.task for one in asked)
            if task != "passage"
        },
        "rows": summarise(found, [row.name for row in rows], REFERENCE, options.seed),
        "measured": found,
    }
    target = options.out / f"{_stem(options)}_{document['date']}.json"
    write_json(target, document)
    shutil.rmtree(parts.folder, ignore_errors=True)
    console.print(f"{len(asked)} prompts, {len(rows)} rows", highlight=False)
    return target


def measured(
    lm: LoadedModel, asked: Sequence[Question], rows: Sequence[Row], parts: Parts, quiet: float, show: Progress
) -> list[dict[str, Any]]:
    """Every prompt under every rule: a list of prompts with ``name``, ``task``, ``tokens`` and ``by_rule``."""
    width = max(len(given) + len(scored) for one in asked for given, scored in one.ways)
    warm: set[Any] = set()
    found = []
    with show.task("prompts under rules", len(asked) * len(rows)) as advance:
        for number, one in enumerate(asked):

            def compute(one: Question = one, number: int = number) -> dict[str, Any]:
                wait_quiet(quiet)
                continuations = laid_out(one.ways, width)
                by_rule = {}
                order = [*rows[number % len(rows) :], *rows[: number % len(rows)]]
                for row in order:
                    prompt = prepared(one.tokens, row, width)
                    shape = (row.name, prompt.tokens.shape, prompt.capacity, continuations.tokens.shape)
                    result = measure(lm.model, prompt, continuations, shape in warm)
                    by_rule[row.name] = {**result, "log_probs": result["log_probs"][: len(one.ways)]}
                    warm.add(shape)
                    advance(f"{one.name}, {row.name}")
                return {"name": one.name, "task": one.task, "tokens": len(one.tokens), "by_rule": by_rule}

            found.append(parts.get(f"prompt_{one.name}", compute))
    return found


def questions(lm: LoadedModel, options: LongContextOptions) -> list[Question]:
    """Prompts of all tasks, and passages.

    Raises:
      ValueError: see :func:`run`.
    """
    text = lm.tokenizer.encode("\n\n".join(source_texts().values()), add_bos=False)
    most = options.tokens - STEPS
    length = most + PASSAGE_TOKENS
    if len(text) < length:
        raise ValueError(f"tokens must be at most {len(text) - PASSAGE_TOKENS + STEPS}, got {options.tokens}")
    limit = options.limit or 1
    encode = functools.partial(encode_prompt, lm, raw=True)  # the cue goes on with the text, and is no assistant's turn
    found = []
    for name, (task, settings) in (SMOKE_TASKS if options.smoke else TASKS).items():
        for number in range(limit):
            seed, make = options.seed + number, LONG_CONTEXT_TASKS[task]
            sample = make(most - 1, seed, count=lambda text: len(encode(text)), **settings)
            stem = name.replace(", ", "_").replace(" ", "_")
            found.append(Question(f"{stem}_{number}", name, encode(f"{sample.prompt}\n"), ways_on(lm, sample)))
    stride = max(1, (len(text) - length) // limit)
    for number in range(limit):
        piece = text[number * stride : number * stride + length]
        found.append(Question(f"passage_{number}", "passage", piece[:most], [([], piece[most:])]))
    return found


def ways_on(lm: LoadedModel, sample: Sample) -> list[tuple[list[int], list[int]]]:
    """The cue of a sample and its candidates, in token ids."""
    encode = functools.partial(lm.tokenizer.encode, add_bos=False)
    given = encode(sample.cue.rstrip())
    return [(given, encode(f" {candidate}")) for candidate in sample.candidates]


def laid_out(ways: Sequence[tuple[Sequence[int], Sequence[int]]], width: int) -> Continuations:
    """Right-padded to ``width``; the last way stands for those that are missing to eight, so that one shape is compiled."""
    count = max(8, len(ways))
    tokens, scored = np.zeros((count, width), np.int32), np.zeros((count, width), bool)
    for row in range(count):
        given, counts = ways[min(row, len(ways) - 1)]
        tokens[row, : len(given) + len(counts)] = [*given, *counts]
        scored[row, len(given) : len(given) + len(counts)] = True
    return Continuations(tokens, scored)


@contextlib.contextmanager
def _model(options: LongContextOptions) -> Iterator[tuple[LoadedModel, str]]:
    """The model, and the name of its file."""
    if not options.smoke:
        lm = jaxdec.load(options.model)
        yield lm, resolve(options.model).name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_smoke_model(Path(folder) / "smoke.gguf", context=1 << 12)
        yield jaxdec.load(str(path)), path.name


def _stem(options: LongContextOptions) -> str:
    return f"long_context{'_smoke' if options.smoke else ''}_{Path(options.model).stem.lower()}_{host_tag()}"


def _parts(options: LongContextOptions, asked: Sequence[Question], rows: Sequence[Row], file: str) -> Parts:
    """The folder of finished prompts."""
    key = {
        "prompts": [dataclasses.asdict(one) for one in asked],
        "rows": [dataclasses.asdict(row) for row in rows],
        "sources": sources_digest(),
        "jax": jax.__version__,
        "host": host_tag(),
        "model": file,
    }
    parts = Parts(options.out / f".{_stem(options)}.parts", json.loads(json.dumps(key)))
    write_text(parts.folder / ".gitignore", "*\n")
    return parts
