"""Replica of Hydragen (Juravsky et al. 2024, arXiv 2402.05099): a prefix that many rows share, kept once and read once.

SmolLM2-135M, float32. *Attention alone*, at its shapes, and *whole steps*, over a grid of rows, shared and own tokens, on
caches with random entries. *Whole texts* in three arms: every row prefilled by itself; prefilled once and copied to every row;
shared. *Needles*: facts in a filler, asked for by all rows at once. A *tree* of examples, problems and samples. What is
claimed, and how it is judged: :mod:`experiments.papers.shared_prefixes.verdicts`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes import timing
from experiments.papers.shared_prefixes.counting import count
from experiments.papers.shared_prefixes.figures import draw_figures
from experiments.papers.shared_prefixes.measurements import (
    attention_shapes,
    needle_part,
    rate_part,
    shape_of,
    tree_part,
)
from experiments.papers.shared_prefixes.results import Results, counted_case
from experiments.papers.shared_prefixes.tables import tables
from experiments.papers.shared_prefixes.verdicts import all_claims
from jaxdec.decoding import Autoregressive
from jaxdec.loading import LoadedModel

OWN = ("caches", "counting", "decoding", "measurements", "texts", "timing")
KERNELS = ("merge", "prefix_attention", "tiled_attention")
COMPUTING = tuple(
    importlib.import_module(name)
    for name in (
        *(f"experiments.papers.shared_prefixes.{name}" for name in OWN),
        *(f"pallas_kernels.{name}.xla" for name in KERNELS),
    )
)
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)

    @functools.cache
    def lm() -> LoadedModel:
        return loaded_model(config["model"], parts.folder)

    shape: Any = parts.get("model", lambda: shape_of(lm()))
    sizes, layers = tuple(shape["sizes"]), shape["layers"]
    own, steps = config["attention"], config["steps"]
    shapes = attention_shapes(own)
    results = Results(
        layers=layers,
        counts=parts.get("counts", lambda: [counted_case(case, sizes, count(*case, sizes)) for case in shapes]),
        attention=parts.get(
            "attention",
            lambda: timing.attention_part(shapes, sizes, own["layers"], own["rounds"], own["seconds"], progress),
        ),
        steps=parts.get(
            "steps",
            lambda: timing.step_part(
                lm().model,
                steps["batches"],
                steps["prefixes"],
                steps["suffix"],
                steps["rounds"],
                steps["seconds"],
                progress,
            ),
        ),
        rates={
            (batch, prefix): parts.get(
                f"rates_b{batch}_p{prefix}", functools.partial(rate_part, lm, config["rates"], batch, prefix, progress)
            )
            for batch, prefix in config["rates"]["cases"]
        },
        needles=parts.get("needles", lambda: needle_part(lm(), config["needles"], progress)),
        tree=parts.get("tree", lambda: tree_part(lm(), config["tree"], config["seed"], progress)),
    )
    return {
        "title": "Hydragen: High-Throughput LLM Inference with Shared Prefixes",
        "source": "arXiv 2402.05099",
        "files": ["jaxdec/cache/shared_prefix.py", "jaxdec/decoding/prefix_sharing.py"],
        "guarantee": str(Autoregressive().guarantee),
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results),
        "seconds": parts.seconds(),
    }


def notes(results: Results) -> list[str]:
    """What a reader has to know beside the claims."""
    loads = ", ".join(f"{part} {'unknown' if load is None else f'{load:.2f}'}" for part, load in results.loads.items())
    return [
        "Times are medians of rounds in which the sides take turns; ratios are taken inside a round. Foreign load, in cores "
        f"that others kept busy while each part was timed, largest of the part: {loads}. Above 0.1 the times are not to be "
        "relied on: take them again on a quiet machine.",
        "Attention alone and steps run over random entries, the same ones in both layouts. Attention is told per layer, "
        "several of which take turns, so that no keys stay in the processor's cache. Random entries put the model where no "
        "text does, and rounding grows from layer to layer there: the logits of whole steps say less than the texts, which "
        "are compared token by token.",
        "A step of 16 rows reads all weights too, and the products with them take most of its time where attention is cheap: "
        "what sharing can gain in whole steps is bounded by the steps without any prefix, given beside them.",
        "The paper's throughputs leave the prefill out. Here both are told: every row prefilled by itself is what decoding "
        "without sharing does; prefilled once and copied to every row is the fairer rival where only steps count.",
        "The paper's rivals (paged attention without common reads, FlashAttention) have no counterpart on a processor; "
        "modern ones share reads too (cascade attention in FlashInfer and vLLM).",
    ]
