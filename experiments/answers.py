"""Load a model, answer prompts, print: the work of ``experiments.generate``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments.generate_flags import method_of, requests, run_options
from experiments.interrupts import STATUS, Interrupts
from experiments.progress import decoding_progress
from experiments.prompts import append_line

if TYPE_CHECKING:  # it takes a second to import, and flags are checked first
    from experiments.interruptible import InterruptibleRun

Batch = list[dict[str, Any]]
STEPS_BETWEEN_REPORTS = 8


def answer(values: flags.FlagValues, interrupts: Interrupts) -> int:
    """Check the flags, load the model, decode, print. Returns an exit status.

    Raises:
      ValueError: bad input.
      OSError: a file that cannot be read or written.
    """
    options = run_options(values)
    prompts, answered = requests(values)
    if all(entry["id"] in answered for entry in prompts):
        say(f"All prompts of {values.prompt_file} are answered in {values.out}.")
        if values.json:
            print(json.dumps(summary(values, options, [], [])), flush=True)
        return 0
    lm = load(values, interrupts)
    options = read_companions(options, values.dtype)
    # A batch is made up of the same prompts, and draws the same numbers, whether or not an earlier run has answered some:
    # its texts do not depend on where that was interrupted.
    batches = [prompts[i : i + values.batch_size] for i in range(0, len(prompts), values.batch_size)]
    # All batches are checked (lengths, templates) before the first one is compiled.
    runs = deque(
        (
            batch,
            build_run(lm, batch, {**options, "seed": batch_seed(values.seed, index)}, values.prompt_file, interrupts),
        )
        for index, batch in enumerate(batches)
        if any(entry["id"] not in answered for entry in batch)
    )
    if values.prompt_file:
        return answer_file(values, options, runs, answered, interrupts)
    return answer_one(values, runs[0][1], interrupts)


def load(values: flags.FlagValues, interrupts: Interrupts) -> Any:
    """Load the model, fetching it first if need be."""
    import jaxdec
    from jaxdec.checkpoints.registry import resolve

    jaxdec.enable_compilation_cache()
    name = os.path.expanduser(values.model)
    say(f"Loading {name} ...")
    with interrupts.raising():  # a fetch that is interrupted leaves nothing behind
        path = resolve(name)
    return dataclasses.replace(jaxdec.load(str(path), dtype=values.dtype, row_tile=values.row_tile), name=name)


def read_companions(options: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Read the files that options of speculative methods name, once for all batches."""
    import jaxdec
    from jaxdec.decoding.speculative.datastore import load_datastore
    from jaxdec.decoding.speculative.trigram_table import load_trigram_table

    readers = {
        "draft": lambda path: jaxdec.load(str(path), dtype=dtype),
        "datastore": load_datastore,
        "trigram_table": load_trigram_table,
        "adaptive_table": load_trigram_table,
    }
    files = {name: read for name, read in readers.items() if isinstance(options.get(name), str)}
    return {**options, **{name: read(Path(options[name]).expanduser()) for name, read in files.items()}}


def batch_seed(seed: int, index: int) -> int:
    """Seed of one batch of a prompt file, so that rows of different batches draw apart; the first has ``seed`` itself."""
    import numpy as np

    return seed if index == 0 else int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def build_run(
    lm: Any, batch: Batch, options: dict[str, Any], prompt_file: str | None, interrupts: Interrupts
) -> InterruptibleRun:
    """Check and encode a batch; an error names the prompt.

    Raises:
      ValueError: a prompt that the model cannot take.
    """
    from experiments.interruptible import InterruptibleRun

    try:
        return InterruptibleRun(lm, [entry["prompt"] for entry in batch], interrupts=interrupts, **options)
    except ValueError:
        if prompt_file is None:
            raise
        for entry in batch:
            try:
                InterruptibleRun(lm, [entry["prompt"]], interrupts=interrupts, **options)
            except ValueError as error:
                raise ValueError(f"--prompt_file={prompt_file}: id {entry['id']!r}: {error}") from None
        raise


def answer_one(values: flags.FlagValues, run: InterruptibleRun, interrupts: Interrupts) -> int:
    """Answer ``--prompt``, streaming the text where there is one text and it only grows."""
    streams = run.method.incremental and values.num_samples == 1 and not values.json
    shown = ""
    if streams:
        for piece in run:
            print(piece.text, end="", flush=True)
            shown += piece.text
    else:
        with decoding_progress(budget(run)) as report:
            for _ in run.states(steps=STEPS_BETWEEN_REPORTS):
                report(run.tokens_so_far(), "Decoding")
    result = run.results()[0]
    if values.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False), flush=True)
    elif streams:  # what was held back for a stop string that did not come
        print(result.text.removeprefix(shown) if result.text.startswith(shown) else "", flush=True)
    else:
        for index, text in enumerate([result, *result.alternatives], start=1):
            print(f"[{index}] {text.text}", flush=True)
    say(
        f"{result.new_tokens} tokens, {result.tokens_per_second:.1f} tokens/s, {result.tokens_per_call:.2f} tokens per call, "
        f"prefill {result.prefill_seconds:.2f} s, compile {result.compile_seconds:.2f} s, {result.method} "
        f"({result.guarantee}, relative to {result.reference}), ended by {result.finish_reason}"
    )
    return interrupted("the text so far was kept") if interrupts.requested else 0


def answer_file(
    values: flags.FlagValues,
    options: dict[str, Any],
    runs: deque[tuple[Batch, InterruptibleRun]],
    answered: set[Any],
    interrupts: Interrupts,
) -> int:
    """Answer ``--prompt_file`` batch by batch; what has been written stays written."""
    lines: list[dict[str, Any]] = []
    firsts: list[Any] = []  # a result of each batch; the runs themselves hold caches, and are let go
    number = sum(entry["id"] not in answered for batch, _ in runs for entry in batch)
    before = 0
    with decoding_progress(sum(budget(run) for _, run in runs)) as report:
        while runs and not interrupts.requested:
            batch, run = runs.popleft()
            for _ in run.states(steps=STEPS_BETWEEN_REPORTS):
                report(before + run.tokens_so_far(), f"{len(lines)} of {number} prompts answered, decoding")
            before += budget(run)
            results = run.results()
            firsts += results[:1]
            for entry, result in zip(batch, results):
                if entry["id"] not in answered:
                    lines.append({"id": entry["id"], **result.as_dict()})
                    keep(values, lines[-1])
    totals = summary(values, options, lines, firsts)
    if values.json:
        print(json.dumps(totals, ensure_ascii=False), flush=True)
    whole = sum(line["finish_reason"] != "interrupted" for line in lines)
    say(
        f"{whole} answers, {totals['new_tokens']} tokens, {totals['tokens_per_second']:.1f} tokens/s, "
        f"prefill {totals['prefill_seconds']:.2f} s, decode {totals['decode_seconds']:.2f} s, "
        f"compile {totals['compile_seconds']:.2f} s, {totals['method']} ({totals['guarantee']})"
    )
    if not interrupts.requested:
        return 0
    again = f"; {values.out} has them, and the same command goes on from there" if values.out else ""
    return interrupted(f"{whole} of {number} prompts were answered{again}")


def keep(values: flags.FlagValues, line: dict[str, Any]) -> None:
    """Append an answer to ``--out``, or print it. An interrupted one is printed: the next run answers that prompt anew."""
    if values.out and line["finish_reason"] != "interrupted":
        append_line(Path(values.out).expanduser(), line)
    elif not values.json:
        print(json.dumps(line, ensure_ascii=False), flush=True)


def summary(
    values: flags.FlagValues, options: dict[str, Any], lines: list[dict[str, Any]], firsts: list[Any]
) -> dict[str, Any]:
    """The JSON object of a prompt file: totals over all texts and batches, and the answers under ``generations``."""
    texts = [text for line in lines for text in (line, *line.get("alternatives", ()))]
    tokens, calls = (sum(text[name] for text in texts) for name in ("new_tokens", "target_calls"))
    seconds = {
        name: sum(getattr(first, name) for first in firsts)
        for name in ("prefill_seconds", "decode_seconds", "compile_seconds")
    }
    spent = seconds["decode_seconds"]
    decoded = sum(first.tokens_per_second * first.decode_seconds for first in firsts)
    return {
        "model": os.path.expanduser(values.model),
        "method": options["method"],
        "guarantee": str(method_of(options).guarantee),
        "new_tokens": tokens,
        "target_calls": calls,
        "tokens_per_call": tokens / calls if calls else None,
        **seconds,
        "tokens_per_second": decoded / spent if spent else 0.0,
        "generations": lines,
    }


def budget(run: InterruptibleRun) -> int:
    """Tokens that a run makes at most."""
    names = ("num_return", "num_beams", "num_samples")
    texts = next((n for n in (getattr(run.method, name, None) for name in names) if n), 1)
    return int(run.prompt.max_new_tokens.sum()) * texts


def interrupted(what: str) -> int:
    """Say so; returns the exit status."""
    say(f"Interrupted: {what}.")
    return STATUS


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)
