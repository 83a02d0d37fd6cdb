"""Every decoding method and what it promises. A new method needs one row here; the checks are in ``checks.py``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdec.decoding import GREEDY, Autoregressive, BeamSearch, DiverseBeamSearch, Method, Sampling
from jaxdec.decoding.speculative import (
    Aded,
    DraftModel,
    Lookahead,
    PromptLookup,
    Speculative,
    SpeculativeSampling,
    SuffixRetrieval,
    TreeSizes,
)
from jaxdec.decoding.speculative.datastore import build_datastore
from jaxdec.decoding.speculative.puct import Settings
from jaxdec.decoding.speculative.trigram_table import build_trigram_table
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
      companions: arrays the method needs beside the model; made from the model and the text of plain decoding.
    """

    name: str
    build: Callable[[Script], Method]
    expected: Callable[[LanguageModel], Expected] | None = GreedyTexts
    law: Sampling | None = None
    companions: Callable[[LanguageModel, Script], dict[str, Any]] = lambda model, script: {}


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


def _datastore(model: LanguageModel, script: Script) -> dict[str, Any]:
    """The expected texts with a few tokens changed: retrieval is right often, not always."""
    noisy = [
        [(token + 1) % model.vocab_size if i % 5 == 4 else token for i, token in enumerate(text)] for text in script
    ]
    return {"datastore": build_datastore([list(text) for text in script] + noisy, model.vocab_size)}


def _trigram_table(model: LanguageModel, script: Script) -> dict[str, Any]:
    return {"trigram_table": build_trigram_table([list(text) for text in script], model.vocab_size)}


def _draft(model: LanguageModel, script: Script) -> dict[str, Any]:
    """The model with noise in its parameters: it agrees with the target often, not always."""
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noisy = [
        leaf + 0.1 * leaf.std() * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in zip(leaves, keys)
    ]
    return {"draft": LanguageModel(model.module, jax.tree.unflatten(tree, noisy))}


LOOKAHEAD = Lookahead(ngram_size=3, window_size=3, max_guesses=2, pool_size=32)
RETRIEVAL = SuffixRetrieval(num_nodes=5, max_depth=3, max_suffix=4, min_suffix=1, max_matches=4)
ADED = Aded(num_nodes=6, max_depth=3, window=5, capacity=64)
PUCT = Aded(
    num_nodes=6, max_depth=3, window=5, capacity=64, search="puct", settings=Settings(simulations=12, num_drafts=5)
)
SIZES = TreeSizes((0, 2, 5), (1.0, 1.2, 1.5))
DETERMINISTIC = (
    Row("greedy", fixed(Autoregressive())),
    Row("beam", fixed(BEAM), beams(BEAM)),
    Row("diverse_beam", fixed(DIVERSE), beams(DIVERSE)),
    Row("diverse_beam:cumulative", fixed(CUMULATIVE), beams(CUMULATIVE)),
    Row("prompt_lookup", fixed(Speculative(PromptLookup(num_nodes=3, max_ngram=2)))),
    Row("lookahead", fixed(Speculative(LOOKAHEAD))),
    Row("suffix_retrieval", fixed(Speculative(RETRIEVAL)), companions=_datastore),
    Row("suffix_retrieval:sizes", fixed(Speculative(RETRIEVAL, sizes=SIZES)), companions=_datastore),
    Row("draft_model", fixed(Speculative(DraftModel((1, 1, 1)))), companions=_draft),
    Row("draft_model:tree", fixed(Speculative(DraftModel((2, 2)))), companions=_draft),
    Row("aded", fixed(Speculative(ADED)), companions=_trigram_table),
    Row("aded:puct", fixed(Speculative(PUCT)), companions=_trigram_table),
    Row("speculative:oracle", drafted(lambda script: Scripted(script, 4, VOCAB))),
    Row("speculative:adversary", drafted(lambda script: Scripted(script, 4, VOCAB, shift=1))),
    Row("speculative:random trees", drafted(lambda script: RandomTrees(script, 9, 4, VOCAB))),
)
NO_SCRIPT: Script = ((0, 1, 2, 3, 4, 5),) * 4


def sampled(
    name: str,
    build: Callable[[Sampling], Callable[[Script], Method]],
    companions: Callable[[LanguageModel, Script], dict[str, Any]] = lambda model, script: {},
) -> list[Row]:
    """A row for plain and one for processed sampling."""
    laws = {"plain": PLAIN_LAW, "processed": PROCESSED_LAW}
    return [Row(f"{name}:{kind}", build(law), None, law, companions) for kind, law in laws.items()]


def speculative(drafter: Any, **options: Any) -> Callable[[Sampling], Callable[[Script], Method]]:
    """Speculative sampling with a fixed drafter."""
    return lambda law: fixed(Speculative(drafter, law, **options))


REJECTION = SpeculativeSampling()
SAMPLED = (
    *sampled("sample", lambda law: fixed(Autoregressive(law))),
    *sampled("prompt_lookup", speculative(PromptLookup(num_nodes=2, max_ngram=1))),
    *sampled("lookahead", speculative(Lookahead(ngram_size=2, window_size=2, max_guesses=2, pool_size=8))),
    *sampled("suffix_retrieval", speculative(RETRIEVAL, sizes=SIZES), _datastore),
    *sampled("aded", speculative(dataclasses.replace(ADED, capacity=8)), _trigram_table),
    *sampled("draft_model", lambda law: fixed(Speculative(DraftModel((1, 1), law), law, REJECTION)), _draft),
    *sampled("draft_model:tree", speculative(DraftModel((2, 2))), _draft),
    *sampled("speculative:random trees", lambda law: drafted(lambda script: RandomTrees(NO_SCRIPT, 6, 2, 6), law)),
    *sampled("speculative sampling", speculative(DrawnFromLaw(2, 6), verification=REJECTION)),
)


def identifier(row: Row) -> str:
    """Name of a parametrised test."""
    return row.name.replace(" ", "-")


def x64(enabled: bool):
    """Context in which jax has (or has not) 64-bit numbers."""
    return jax.enable_x64(enabled)
