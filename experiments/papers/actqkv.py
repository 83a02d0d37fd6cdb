"""Replica of ActQKV (Xiao et al. 2025, arXiv 2502.13542): which blocks of the cache a window of tokens asks for.

SmolLM2-135M, float32. *Recall*: facts hidden in filler; windows in which a question is a few tokens of many; queries and keys
are recorded from dense passes, and every probe asks for blocks by the same ones. *Answers*: the same texts fed in windows
through the retrieval cache, each arm with its own states. What is claimed, and how it is judged:
:mod:`experiments.papers.block_retrieval.verdicts`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.block_retrieval.figures import draw_figures
from experiments.papers.block_retrieval.measurements import answer_part, exact_part, recall_part, rule_of, text_of
from experiments.papers.block_retrieval.results import EVERYTHING, NO_BLOCKS, OURS, Results
from experiments.papers.block_retrieval.tables import tables
from experiments.papers.block_retrieval.texts import PLACES
from experiments.papers.block_retrieval.verdicts import all_claims
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.attention.sparse.actqkv import PROBES, ActQKV
from jaxdec.loading import LoadedModel

COMPUTING = tuple(
    importlib.import_module(f"experiments.papers.block_retrieval.{name}")
    for name in ("measurements", "recorded", "texts")
)
"""A change to these makes all parts anew."""


def arms(config: Mapping[str, Any]) -> dict[str, ActQKV | None]:
    """What whole passes read, by name; None is everything."""
    own, sharp = config["rule"], config["answers"]["temperature"]
    probes: dict[str, ActQKV | None] = {
        f"{probe}, equal budgets": rule_of(own, probe=probe, dynamic=False) for probe in PROBES
    }
    every = {
        EVERYTHING: None,
        NO_BLOCKS: rule_of(own, top_blocks=0),
        OURS: rule_of(own),
        f"activation, dynamic at temperature {sharp:g}": rule_of(own, temperature=sharp),
        **probes,
    }
    return dict(list(every.items())[: config["answers"]["arms"]])


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    rule, recall, answers = rule_of(config["rule"]), config["recall"], config["answers"]

    @functools.cache
    def lm() -> LoadedModel:
        return loaded_model(config["model"], parts.folder)

    def recalled(tokens: int, seed: int) -> dict[str, Any]:
        text = text_of(lm().tokenizer.encode, rule, tokens, recall["facts"], seed)
        with progress.task(f"recall in {tokens} tokens", len(PLACES) * recall["facts"]) as advance:
            return recall_part(lm().model, text, rule, recall["budgets"], recall["temperatures"], advance)

    def answered(tokens: int, seed: int, arm: str) -> dict[str, Any]:
        text = text_of(lm().tokenizer.encode, rule, tokens, answers["facts"], seed)
        with progress.task(f"answers, {arm}", tokens // rule.window + answers["facts"]) as advance:
            return answer_part(lm().model, text, arms(config)[arm], rule.window, advance)

    def exact() -> dict[str, Any]:
        text = text_of(lm().tokenizer.encode, rule, config["exact"]["tokens"], 1, 0)
        return exact_part(lm().model, text, rule)

    results = Results(
        rule=rule,
        budgets=recall["budgets"],
        recall=[
            parts.get(f"recall_{tokens}_{seed}", functools.partial(recalled, tokens, seed))
            for tokens, seed in recall["texts"]
        ],
        answers={
            arm: [
                parts.get(f"answers_{index}_{tokens}_{seed}", functools.partial(answered, tokens, seed, arm))
                for tokens, seed in answers["texts"]
            ]
            for index, arm in enumerate(arms(config))
        },
        exact=parts.get("exact", exact),
    )
    return {
        "title": "Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference",
        "source": "arXiv 2502.13542",
        "files": ["jaxdec/attention/sparse/actqkv.py", "jaxdec/cache/retrieval.py"],
        "guarantee": "approximate",
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results),
        "seconds": parts.seconds(),
    }


def notes(results: Results) -> list[str]:
    """What a reader has to know beside the claims."""
    rule = results.rule
    return [
        "The paper's tables were not at hand: claims are those of its abstract and of its code, and no number of it is quoted.",
        "Recall is a mean over all layers, most of which have no reason to look for the fact; beside it stand the same with "
        "layers weighted by their attention to the fact, and the share of dense attention (from the question's tokens, to all "
        "blocks) that lies in the blocks asked for, with that of the best choice there is. 'Question alone' is the mean query "
        "of the question's tokens, known beforehand: no method, but what weights could come to at best.",
        f"A question is 8 or 9 of {rule.window} tokens. In the middle of its window it is followed by filler; at its end, the "
        "newest token is the question's last, and a probe of the newest token alone is hard to beat.",
        "Keys keep their positions here, so that reading all blocks is dense attention; in the authors' code what was "
        "retrieved has none. Statistics are kept per layer, the bias is used from the second window on, and budgets follow "
        f"densities after {rule.min_windows} windows, in prompts too: see the module of the method.",
        "Texts are made of a few sentences' parts and are easy to predict; the surprisals compare arms, and nothing else.",
    ]
