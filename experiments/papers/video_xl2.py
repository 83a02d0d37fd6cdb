"""Replica of Video-XL-2 (Qin et al. 2025, arXiv 2506.19225) on text: chunked prefill and bi-level caches.

SmolLM2-135M, float32. Documents are sections of a fixed number of tokens, each behind a line with its number (the paper's
time stamps); some have a fact in a filler, and every fact is asked for. *Prefill* under rules with more and fewer chunks
before, with and without global markers, beside plain prefill. *Bi-level caches* after one of them: windows, relevance and the
number of dense chunks, positions, mass of pooled keys. What is claimed, and how it is judged:
:mod:`experiments.papers.chunk_sparsity.verdicts`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.chunk_sparsity.figures import draw_figures
from experiments.papers.chunk_sparsity.measurements import Setting, bilevel_part, prefill_part
from experiments.papers.chunk_sparsity.results import Results, right
from experiments.papers.chunk_sparsity.tables import tables
from experiments.papers.chunk_sparsity.verdicts import all_claims
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding import Guarantee

COMPUTING = tuple(
    importlib.import_module(f"experiments.papers.{name}")
    for name in ("chunk_sparsity.documents", "chunk_sparsity.measurements", "shared_prefixes.texts")
)
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)

    @functools.cache
    def setting() -> Setting:
        return Setting.of(loaded_model(config["model"], parts.folder), config["documents"], config["seed"])

    def prefill(name: str, previous: int | None, markers: bool) -> Any:
        return parts.get(name, lambda: prefill_part(setting(), previous, markers, progress))

    rules = [(previous, True) for previous in config["previous"]]
    rules += [(previous, False) for previous in config["previous_without_markers"]]
    own = config["bilevel"]
    results = Results(
        plain=prefill("plain", None, False),
        prefills=[prefill(f"prefill_{previous}_{'with' if on else 'without'}", previous, on) for previous, on in rules],
        bilevel=parts.get("bilevel", lambda: bilevel_part(setting(), own, config["seed"], progress)),
        previous=own["previous"],
        compression=own["compression"],
    )
    return {
        "title": "Video-XL-2: Towards Very Long-Video Understanding Through Task-Aware KV Sparsification",
        "source": "arXiv 2506.19225",
        "files": [
            "jaxdec/attention/sparse/chunked_prefill.py",
            "jaxdec/cache/bilevel.py",
            "jaxdec/cache/question_scores.py",
            "jaxdec/document_questions.py",
        ],
        "guarantee": str(Guarantee.APPROXIMATE),
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results),
        "seconds": parts.seconds(),
    }


def notes(results: Results) -> list[str]:
    """What a reader has to know beside the claims."""
    held = results.bilevel["bytes"]
    pooled = ", ".join(f"{right(arm):.2f} with windows of {arm['compression']}" for arm in results.sweep("none"))
    found = [one["foreign_load"] for one in (results.plain, *results.prefills) if one["foreign_load"] is not None]
    return [
        "Text stands in for video, and a line with the number of a section for a time stamp. There is no vision model, no "
        "training and no retriever here: of the paper this replica covers the attention of prefill and the caches of answers. "
        "The model was not trained with the mask.",
        f"{len(results.plain['right'])} questions about facts that each lie within one section, none in the first or the last. "
        "An answer is right if each of its tokens is the likeliest where it stands, so that greedy decoding begins with it.",
        "Facts are about other things each, and their words are rare in the filler: easy for BM25. Where facts differ in a "
        "name alone, products of queries and pooled keys did not tell their sections apart in trials, while BM25 did.",
        f"Where every chunk is pooled, the share of right answers is {pooled}: neighbouring tokens of text have less in common "
        "than neighbouring patches of a video, and what a bi-level cache answers here is what its dense chunks say.",
        f"The prompts' dense version takes {held['dense'] / 1e6:.1f} MB, the pooled one with the prefix "
        f"{held['pooled'] / 1e6:.1f} MB; an assembled cache is a copy, counted by the entries in use.",
        "Seconds of prefill are one run each without compiling, for the figure alone"
        + (f"; foreign load, in cores that others kept busy, at most {max(found):.2f}." if found else "."),
        "Chosen chunks are none of the two ends, which are dense in any case; top k of the paper may name them too.",
    ]
