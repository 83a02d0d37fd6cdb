"""Every decoding method and what it promises. A new method needs one row here; the checks are in ``checks.py``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdec.decoding import GREEDY, Autoregressive, BeamSearch, DiverseBeamSearch, Method, Sampling
from jaxdec.decoding.speculative import PromptLookup, Speculative, SpeculativeSampling
from jaxdec.language_model import LanguageModel
from tests.contracts.expected import BeamTexts, Expected, GreedyTexts
from tests.decoding.speculative.drafters import DrawnFromLaw, RandomTrees, Scripted

PROMPTS = ((3, 1, 4, 1, 5), (9, 2), (6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3), (7, 7, 7))
BUDGET = 14
Script = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
      name: the name users give, and a variant behind a colon.
      build: makes the method. Test drafters need to know the text of plain decoding; the others ignore it.
      expected: the plain reference of its text; None where the text is drawn at random.
      law: the sampling whose law its text follows; None where it is deterministic.
    """

    name: str
    build: Callable[[Script], Method]
    expected: Callable[[LanguageModel], Expected] | None = GreedyTexts
    law: Sampling | None = None


def fixed(method: Method) -> Callable[[Script], Method]:
    """A method that needs no script."""
    return lambda script: method


def beams(method) -> Callable[[LanguageModel], Expected]:
    """The plain beam search with the same settings."""
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return lambda model: BeamTexts(model, settings)


def drafted(drafter: Callable[[Script], Any], sampling: Sampling = GREEDY) -> Callable[[Script], Method]:
    """Speculative decoding with a test drafter."""
    return lambda script: Speculative(drafter(script), sampling)


PLAIN_LAW = Sampling(temperature=1.0)
PROCESSED_LAW = Sampling(temperature=0.7, top_k=4, top_p=0.9, min_p=0.05)
BEAM = BeamSearch(3, length_penalty=0.7)
DIVERSE = DiverseBeamSearch(4, 2, diversity_strength=0.6)
CUMULATIVE = DiverseBeamSearch(3, 3, diversity_strength=0.4, diversity="cumulative")
VOCAB = 41

DETERMINISTIC = (
    Row("greedy", fixed(Autoregressive())),
    Row("beam", fixed(BEAM), beams(BEAM)),
    Row("diverse_beam", fixed(DIVERSE), beams(DIVERSE)),
    Row("diverse_beam:cumulative", fixed(CUMULATIVE), beams(CUMULATIVE)),
    Row("prompt_lookup", fixed(Speculative(PromptLookup(num_nodes=3, max_ngram=2)))),
    Row("speculative:oracle", drafted(lambda script: Scripted(script, 4, VOCAB))),
    Row("speculative:adversary", drafted(lambda script: Scripted(script, 4, VOCAB, shift=1))),
    Row("speculative:random trees", drafted(lambda script: RandomTrees(script, 9, 4, VOCAB))),
)
NO_SCRIPT: Script = ((0, 1, 2, 3, 4, 5),) * 4
SAMPLED = tuple(
    Row(f"{name}:{kind}", build(sampling), None, sampling)
    for kind, sampling in {"plain": PLAIN_LAW, "processed": PROCESSED_LAW}.items()
    for name, build in {
        "sample": lambda sampling: fixed(Autoregressive(sampling)),
        "prompt_lookup": lambda sampling: fixed(Speculative(PromptLookup(num_nodes=2, max_ngram=1), sampling)),
        "speculative:random trees": lambda sampling: drafted(lambda script: RandomTrees(NO_SCRIPT, 6, 2, 6), sampling),
        "speculative sampling": lambda sampling: fixed(
            Speculative(DrawnFromLaw(2, 6), sampling, SpeculativeSampling())
        ),
    }.items()
)


def identifier(row: Row) -> str:
    """Name of a parametrised test."""
    return row.name.replace(" ", "-")


def x64(enabled: bool):
    """Context in which jax has (or has not) 64-bit numbers."""
    return jax.enable_x64(enabled)
