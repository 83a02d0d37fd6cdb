"""Replica of maximum manifold capacity representations (Yerxa et al. 2023, arXiv 2303.03307) on digits of 8 x 8 pixels.

*Arms*: pixels, a random encoder, and encoders trained on 2, 4 and 8 views; of each, linear probes with few labels, and
capacity, radius and dimension of the manifolds of an image's views and of a class. *Sweep*: the loss against its bound by the
width of the embedding. What is claimed, and how it is judged: :mod:`experiments.papers.manifolds.verdicts`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.manifolds import measurements, timing
from experiments.papers.manifolds.measurements import (
    PIXELS,
    RANDOM,
    Digits,
    arm_part,
    mmcr_arm,
    split_digits,
    sweep_part,
)
from experiments.papers.manifolds.report import draw_figures, tables
from experiments.papers.manifolds.verdicts import Results, all_claims
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress

COMPUTING = (measurements, timing)  # a change to these makes all parts anew


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)

    @functools.cache
    def data() -> Digits:
        return split_digits(config["train"])

    def arm(name: str, num_views: int | None, seed: int) -> Any:
        part = f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
        return parts.get(part, lambda: arm_part(data(), config, name, num_views, seed, progress))

    def swept(dimension: int, seed: int) -> Any:
        part = f"dimension_{dimension}_{seed}"
        return parts.get(part, lambda: sweep_part(data(), config, dimension, seed, progress))

    arms = {PIXELS: None, RANDOM: None, **{mmcr_arm(num_views): num_views for num_views in config["views"]}}
    sweep = config["sweep"]
    results = Results(
        views=tuple(config["views"]),
        labels=tuple(config["labels"]),
        batch_size=config["batch_size"],
        arms={name: [arm(name, num_views, seed) for seed in config["seeds"]] for name, num_views in arms.items()},
        sweep={dimension: [swept(dimension, seed) for seed in sweep["seeds"]] for dimension in sweep["dimensions"]},
        norms=parts.get("norms", lambda: timing.norms_part(**config["norms"], progress=progress)),
    )
    return {
        "title": "Learning Efficient Coding of Natural Images with Maximum Manifold Capacity Representations",
        "source": "arXiv 2303.03307",
        "files": ["jaxdec/objectives/manifold_capacity.py", "jaxdec/objectives/nuclear_norm.py",
                  "jaxdec/evaluation/manifold_geometry.py", "jaxdec/training/recipes/mmcr.py"],
        "guarantee": "none: a training method",
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": [
            "Views are shifts by a pixel, gains, noise and dropped pixels; the paper's are crops and changes of colour.",
            "Features are those of the encoder, before the projector. Probes are logistic regressions with "
            f"l2 = {config['l2']:g} on features of unit mean square, the same draws of labels for all arms of a seed.",
            "With all labels the differences between arms are small, and nothing is claimed of them.",
            "Capacities are mean-field estimates with the mean of all centres taken off and their correlations left in.",
            f"Times are medians of rounds in turns; foreign load in cores {[case['foreign_load'] for case in results.norms]}.",
        ],
        "seconds": parts.seconds(),
    }  # fmt: skip
