"""Replica of the Discrete Key-Value Bottleneck (Traeuble et al. 2023, arXiv 2207.11240): learning classes after one another.

*Digits*, with pixels for embeddings: five splits of two classes each, accuracy on all ten after every split, for bottlenecks of
several sizes, a linear probe and an MLP; and the same learners on all classes at once. *Blobs*: the toy of figure 2. *Times* of
the search for the nearest keys. What is claimed, and how it is judged: :mod:`experiments.papers.incremental_learning.verdicts`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.incremental_learning.arms import named
from experiments.papers.incremental_learning.blobs import blobs_part
from experiments.papers.incremental_learning.digits import digits_part
from experiments.papers.incremental_learning.report import draw_figures, tables
from experiments.papers.incremental_learning.timing import timing_part
from experiments.papers.incremental_learning.verdicts import Results, all_claims
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding.state import Guarantee

OWN = ("arms", "blobs", "digits", "timing")
COMPUTING = tuple(
    importlib.import_module(name)
    for name in (
        *(f"experiments.papers.incremental_learning.{name}" for name in OWN),
        "pallas_kernels.nearest_key.origin",
        "pallas_kernels.nearest_key.xla",
    )
)
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    blobs, seed = config["blobs"], config["seeds"][0]
    results = Results(
        sizes=tuple(named(*size) for size in config["digits"]["sizes"]),
        digits={
            seed: parts.get(f"digits_{seed}", functools.partial(digits_part, config["digits"], seed, progress))
            for seed in config["seeds"]
        },
        blobs=parts.get("blobs", lambda: blobs_part(blobs, seed, progress)),
        blob_sizes=(named(*blobs["chunk"]), named(*blobs["random"])),
        timing=parts.get("timing", lambda: timing_part(config["timing"], seed, progress)),
    )
    return {
        "title": "Discrete Key-Value Bottleneck",
        "source": "arXiv 2207.11240",
        "files": ["jaxdec/models/key_value_bottleneck.py", "jaxdec/models/vector_quantization.py",
                  "jaxdec/training/class_incremental.py"],
        "guarantee": str(Guarantee.APPROXIMATE),
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results),
        "seconds": parts.seconds(),
    }  # fmt: skip


def notes(results: Results) -> list[str]:
    """What a reader has to know beside the claims."""
    load = results.timing["foreign_load"]
    return [
        "CIFAR-10 behind frozen encoders becomes 1797 images of 8 by 8 pixels without an encoder, and thousands of passes over "
        "a split become about a hundred. The paper's main table was not at hand, so that no figure of it is quoted; what is "
        "judged is the shape of its result.",
        "Keys learn from the training images without labels, those of all classes, 10 passes. In the paper they learn from "
        "another data set.",
        "Keys that are drawn anew, and those of k-means, take counts and sums along; the authors' code leaves them as they "
        "were.",
        "Learning of values is plain gradient descent, clipped at a norm of one. The arms with momentum, and with Adam, which "
        "the authors use on the blobs, move values that are not fetched; the library refuses them unless allowed explicitly.",
        "Times are medians of rounds in turns; foreign load in cores "
        f"{'unknown' if load is None else f'{load:.2f}'}. Above 0.1 they are not to be relied on.",
    ]
