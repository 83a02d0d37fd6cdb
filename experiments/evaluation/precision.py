"""Suite ``precision``: what a low-precision model costs and gives, beside the same weights in float32.

Two parts, each with a date, commit and machine of its own. *Quality*: perplexity on fixed texts, divergence of the laws, greedy
texts. *Timing*: steps and prefill, dtypes in turns. A part that is not measured is taken from the newest result of the same
model, texts and sort of machine, so that timings can be taken again on a quiet machine.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import jaxdec
from experiments.benchmarks.harness import Record, run_rounds
from experiments.benchmarks.machine import host_tag
from experiments.evaluation.collection import greedy_outputs
from experiments.evaluation.precision_page import precision_results
from experiments.evaluation.precision_quality import REFERENCE, agreement_rows, quality_rows, score_window
from experiments.evaluation.precision_texts import ABOUT, WIDTH, WINDOWS, Windows, source_windows
from experiments.evaluation.precision_timing import PREFILL, DtypeWorker, load_of, timing_case, timing_rows
from experiments.evaluation.precision_verdicts import judge
from experiments.evaluation.prompts import FAMILY_PROMPTS, choose, read_questions
from experiments.evaluation.setting import SMOKE_PROMPT_TOKENS, Options, model_path
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.record import environment, sources_digest, write_json, write_text
from jaxdec.generation import encode_prompt

SCHEMA = 1
DTYPES = (REFERENCE, "bfloat16", "int8")
MEASURES = ("quality", "timing")
SMOKE_WIDTH, SMOKE_WINDOWS = 48, dict.fromkeys(WINDOWS, 2)
SECONDS = 0.6
"""That each number of tokens of a step is timed for, about, in every round."""


@dataclasses.dataclass(frozen=True)
class PrecisionOptions:
    """What the command line asks for.

    Attributes:
      out: folder of the result.
      measure: some of :data:`MEASURES`.
      model: what :func:`jaxdec.load` takes.
      families: of the prompts; empty for all.
      limit: prompts per family.
      max_new_tokens: of the greedy texts.
      rounds: of the timing.
      repeats: how often a loud round is repeated.
      wait_quiet: seconds to wait for a quiet machine before each round.
      seed: of the bootstrap.
      smoke: a tiny random model, few and short windows; no claim.
    """

    out: Path
    measure: Sequence[str] = MEASURES
    model: str = "smollm2-135m-instruct"
    families: Sequence[str] = ()
    limit: int | None = 2
    max_new_tokens: int = 64
    rounds: int = 5
    repeats: int = 1
    wait_quiet: float = 0.0
    seed: int = 0
    smoke: bool = False


@dataclasses.dataclass(frozen=True)
class PrecisionSetting:
    """Models by dtype, texts, prompts in token ids, and the parts that are finished."""

    options: PrecisionOptions
    models: Mapping[str, Any]
    texts: Mapping[str, Windows]
    prompts: Mapping[str, Sequence[int]]
    parts: Parts
    show: Progress


def run(options: PrecisionOptions, console: Console, show: Progress) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      ValueError: families that do not exist, or a text too short.
      OSError: files that cannot be read or written.
    """
    with model_path(Options(options.out, arms=(), model=options.model, smoke=options.smoke)) as path:
        setting = prepare(options, path, show)
        document = measure(setting, console, Path(path).name)
    target = options.out / f"{stem(options)}_{document['date']}.json"
    write_json(target, document)
    shutil.rmtree(setting.parts.folder, ignore_errors=True)
    return target


def stem(options: PrecisionOptions) -> str:
    """Beginning of the result's file name."""
    return f"precision{'_smoke' if options.smoke else ''}_{Path(options.model).stem.lower()}_{host_tag()}"


def prepare(options: PrecisionOptions, path: str, show: Progress) -> PrecisionSetting:
    """Load the models, encode texts and prompts, open the parts."""
    questions = choose(read_questions(FAMILY_PROMPTS, "family"), options.families, options.limit)
    with show.task("loading", len(DTYPES)) as advance:
        models = {}
        for dtype in DTYPES:
            models[dtype] = jaxdec.load(path, dtype=dtype)
            advance(dtype)
    lm = models[REFERENCE]
    shape = (SMOKE_WIDTH, SMOKE_WINDOWS) if options.smoke else (WIDTH, WINDOWS)
    texts = source_windows(lm.tokenizer, *shape)
    cut = SMOKE_PROMPT_TOKENS if options.smoke else None
    prompts = {question.id: encode_prompt(lm, question.text, raw=False)[:cut] for question in questions}
    key = {
        "texts": {name: text.sha256 for name, text in texts.items()},
        "prompts": prompts,
        "max_new_tokens": options.max_new_tokens,
        "sources": sources_digest(),
        "jax": jax.__version__,
        "host": host_tag(),
        "device": jax.devices()[0].device_kind,
        "model": "smoke" if options.smoke else [path, Path(path).stat().st_size],
    }
    parts = Parts(options.out / f".{stem(options)}.parts", json.loads(json.dumps(key)))
    write_text(parts.folder / ".gitignore", "*\n")
    return PrecisionSetting(options, models, texts, prompts, parts, show)


def measure(setting: PrecisionSetting, console: Console, file: str) -> dict[str, Any]:
    """Both parts; returns the result. ``file`` is the name of the model's file, which may say that it is quantised."""
    options = setting.options
    surroundings = environment()
    lm = setting.models[REFERENCE].model
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": "precision",
        "smoke": options.smoke,
        "host": host_tag(),
        "date": surroundings["date"][:10],
        "model": {"name": options.model, "file": file, "num_params": lm.num_params()},
        "reference": REFERENCE,
        "weights_bytes": {dtype: loaded.model.nbytes() for dtype, loaded in setting.models.items()},
        "texts": {
            name: {
                "about": ABOUT[name],
                "windows": len(text.tokens),
                "width": text.tokens.shape[1],
                "sha256": text.sha256,
            }
            for name, text in setting.texts.items()
        },
    }
    earlier = earlier_result(options, document)
    for name, take in (("quality", quality), ("timing", functools.partial(timing, console=console))):
        if name in options.measure:
            document[name] = {"environment": surroundings, "seed": options.seed, **take(setting)}
        else:
            document[name] = earlier.get(name)
    document["targets"] = judge(document)
    return document


def earlier_result(options: PrecisionOptions, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The newest result of the same model, texts and sort of machine; empty if there is none."""
    same = ("model", "texts", "reference", "weights_bytes", "host")
    fitting = [
        found
        for found in precision_results(options.out, smoke=options.smoke)
        if all(found[name] == document[name] for name in same)
    ]
    return fitting[-1] if fitting else {}


def quality(setting: PrecisionSetting) -> dict[str, Any]:
    """The part of :mod:`experiments.evaluation.precision_quality`."""
    models = {dtype: loaded.model for dtype, loaded in setting.models.items()}
    windows: dict[str, list[Any]] = {}
    with setting.show.task("windows of text", sum(len(text.tokens) for text in setting.texts.values())) as advance:
        for source, text in setting.texts.items():
            for number, tokens in enumerate(text.tokens):
                compute = functools.partial(score_window, models, tokens)
                windows.setdefault(source, []).append(setting.parts.get(f"window_{source}_{number}", compute))
                advance(f"{source} {number + 1}")
    outputs = {}
    with setting.show.task(f"greedy texts of {len(setting.prompts)} prompts", len(models)) as advance:
        for dtype, model in models.items():
            eos = setting.models[dtype].tokenizer.eos_token_ids
            budget = setting.options.max_new_tokens
            compute = functools.partial(greedy_outputs, model, setting.prompts, eos, budget)
            outputs[dtype] = setting.parts.get(f"outputs_{dtype}", compute)
            advance(dtype)
    width = next(iter(setting.texts.values())).tokens.shape[1]
    return {
        "rows": quality_rows(windows, width - 1, setting.options.seed),
        "agreement": agreement_rows(outputs, setting.options.seed),
        "max_new_tokens": setting.options.max_new_tokens,
        "windows": windows,
    }


def timing(setting: PrecisionSetting, console: Console) -> dict[str, Any]:
    """The part of :mod:`experiments.evaluation.precision_timing`."""
    options = setting.options
    prompt = [token for text in setting.texts.values() for token in text.tokens.ravel().tolist()]
    prompt = prompt[: SMOKE_PROMPT_TOKENS if options.smoke else PREFILL]
    seconds = 0.01 if options.smoke else SECONDS
    workers = {dtype: DtypeWorker(loaded.model, prompt, seconds) for dtype, loaded in setting.models.items()}
    record = Record.open(setting.parts.folder / "timing.json", dict(setting.parts.key), options.rounds)
    if record.attempts:
        console.print(f"continuing after {len(record.attempts)} measurements", style="yellow", highlight=False)
    with setting.show.task("compiling", len(workers)) as advance:
        for dtype, worker in workers.items():
            worker.warm_up()
            advance(dtype)
    with setting.show.task("timing", options.rounds) as advance:
        settings = {"rounds": options.rounds, "repeats": options.repeats, "quiet_seconds": options.wait_quiet}

        def tell(attempt: Mapping[str, Any]):
            if attempt["attempt"] == 0:  # a repeated round is no further one
                advance("loud" if attempt["loud"] else "")

        run_rounds([timing_case(DTYPES)], workers, record, **settings, on_attempt=tell)
    return {
        "rows": timing_rows(record, DTYPES, REFERENCE),
        "prefill_tokens": len(prompt),
        "compile_seconds": {dtype: worker.compile_seconds for dtype, worker in workers.items()},
        **load_of(record),
    }
