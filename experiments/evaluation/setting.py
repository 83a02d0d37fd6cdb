"""What an evaluation is of: the options, the models and prompts, and the parts that are finished."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import jaxdec
from experiments.benchmarks.machine import host_tag
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.evaluation.arms import Arm
from experiments.evaluation.collection import Collection
from experiments.evaluation.decoding import padded_prompt
from experiments.evaluation.prompts import DOMAIN_PROMPTS, FAMILY_PROMPTS, Question, choose, groups_of, read_questions
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.record import sources_digest, write_text
from jaxdec.checkpoints.registry import resolve
from jaxdec.generation import encode_prompt

SMOKE_PROMPT_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
      out: folder of the result.
      arms: with the baselines they need.
      families: names; empty for all.
      model: what :func:`jaxdec.load` takes.
      dtype: of the model, but for arms that have one of their own.
      max_new_tokens: budget of a prompt.
      rounds: how often everything timed is measured.
      limit: prompts per family and domain; None for all of them.
      repeats: how often a loud round of a prompt is repeated.
      wait_quiet: seconds to wait for a quiet machine before each round of a prompt.
      seed: of the bootstrap.
      peer: whether llama.cpp takes part.
      text: files for the memory of drafters, beside the model's own outputs.
      smoke: a tiny random model and prompts cut short; no claim.
    """

    out: Path
    arms: Sequence[Arm]
    families: Sequence[str] = ()
    model: str = "smollm2-135m-instruct"
    dtype: str = "float32"
    max_new_tokens: int = 64
    rounds: int = 2
    limit: int | None = None
    repeats: int = 1
    wait_quiet: float = 0.0
    seed: int = 0
    peer: bool = True
    text: Sequence[str] = ()
    smoke: bool = False


@dataclasses.dataclass
class Setting:
    """What all parts of the suite share: models by dtype, prompts in token ids, the memory of drafters, finished parts."""

    options: Options
    models: dict[str, Any]
    questions: list[Question]
    domains: dict[str, list[Question]]
    token_ids: dict[str, list[int]]
    parts: Parts
    show: Progress
    collection: Collection = dataclasses.field(init=False)
    costs: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)

    def lm(self, dtype: str) -> Any:
        """The loaded model of a dtype (that of the options if it is empty)."""
        return self.models[dtype or self.options.dtype]

    def prompt(self, name: str) -> Any:
        """A prompt of the suite, padded."""
        lm = self.lm("")
        eos = lm.tokenizer.eos_token_ids
        return padded_prompt(self.token_ids[name], self.options.max_new_tokens, eos, lm.model)


def stem(options: Options) -> str:
    """Beginning of the result's file name."""
    model = Path(options.model).stem.lower()
    return f"specbench{'_smoke' if options.smoke else ''}_{model}-{options.dtype}_{host_tag()}"


@contextlib.contextmanager
def model_path(options: Options) -> Iterator[str]:
    """Yield the model's path; that of a smoke run vanishes afterwards."""
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            yield str(write_smoke_model(Path(folder) / "smoke.F32.gguf"))
        return
    yield str(resolve(options.model))


def prepare(options: Options, questions: list[Question], path: str, show: Progress) -> Setting:
    """Load the models, encode the prompts, open the parts."""
    everything = read_questions(FAMILY_PROMPTS, "family")
    in_domains = read_questions(DOMAIN_PROMPTS, "domain")
    if options.smoke:  # the collection too is of what is measured
        everything, in_domains = questions, choose(in_domains, (), options.limit)
    dtypes = dict.fromkeys([options.dtype, *(arm.dtype for arm in options.arms if arm.dtype)])
    models = {dtype: jaxdec.load(path, dtype=dtype) for dtype in dtypes}
    lm = models[options.dtype]
    cut = SMOKE_PROMPT_TOKENS if options.smoke else None
    token_ids = {q.id: encode_prompt(lm, q.text, raw=False)[:cut] for q in (*everything, *in_domains)}
    if len(token_ids) != len(everything) + len(in_domains):
        raise ValueError(f"an id occurs both in {FAMILY_PROMPTS} and in {DOMAIN_PROMPTS}")
    asked = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("out", "rounds", "smoke", "text")
    }
    key = {
        "options": asked,
        "tokens": token_ids,
        "sources": sources_digest(),
        "jax": jax.__version__,
        "host": host_tag(),
        "device": jax.devices()[0].device_kind,
        "model": "smoke" if options.smoke else [path, Path(path).stat().st_size],
        "text": [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in options.text],
    }
    parts = Parts(options.out / f".{stem(options)}.parts", json.loads(json.dumps(key)))
    write_text(parts.folder / ".gitignore", "*\n")
    domains = {
        name: [q for q in choose(in_domains, (), options.limit) if q.group == name] for name in groups_of(in_domains)
    }
    return Setting(options, models, questions, domains, token_ids, parts, show)
