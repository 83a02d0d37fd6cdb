"""Replica of CRATE (Yu et al. 2023, arXiv 2306.01129 and 2311.13110) with CRATE-MAE and CRATE-alpha, on digits and bytes.

*Subspaces*: the mathematics alone. *Classifiers* of 8 x 8 digits: CRATE, with its output map tied, CRATE-alpha, and a vision
transformer, over seeds, with coding rate and sparsity by layer before and after training. A *masked auto-encoder*. *Language*:
CRATE-GPT on bytes beside a transformer, decoded greedily, by prompt lookup and by beam search. What is claimed, and how it is
judged: :mod:`experiments.papers.white_box.verdicts`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.papers.white_box import images, subspaces, text, vit
from experiments.papers.white_box.report import draw_figures, tables
from experiments.papers.white_box.verdicts import Results, all_claims

COMPUTING = (images, subspaces, text, vit)
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    digits = config["digits"]

    def classifiers(arm: str) -> list[Any]:
        return [
            parts.get(
                f"classifier_{arm.replace(' ', '_')}_{seed}",
                functools.partial(images.classifier_part, digits, arm, seed, progress),
            )
            for seed in digits["seeds"]
        ]

    results = Results(
        subspaces=parts.get("subspaces", lambda: subspaces.subspaces_part(config["subspaces"])),
        floor=parts.get("floor", lambda: images.floor_part(digits)),
        classifiers={arm: classifiers(arm) for arm in images.ARMS},
        autoencoder=parts.get("autoencoder", lambda: images.autoencoder_part(digits, progress)),
        language={
            arm: parts.get(f"language_{arm}", functools.partial(text.language_part, config["language"], arm, progress))
            for arm in text.ARMS
        },
    )
    return {
        "title": "White-Box Transformers via Sparse Rate Reduction",
        "source": "arXiv 2306.01129, 2311.13110, 2404.02446, 2405.20299",
        "files": [
            "jaxdec/models/crate.py",
            "jaxdec/models/crate_classifier.py",
            "jaxdec/models/crate_autoencoder.py",
            "jaxdec/models/crate_lm.py",
            "jaxdec/objectives/coding_rate.py",
        ],
        "guarantee": "none: models, not a decoding method",
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": [
            "Digits are 8 x 8 pixels in patches of 2 x 2; the paper's images are 224 x 224 in patches of 16 x 16.",
            "The probe is that of the authors' code: tokens behind the norm, projected, each of unit length within its head; "
            "its 0.01 is the squared precision.",
            f"Bytes are of the language reference of Python and other texts that are installed with it; a continuation of "
            f"CRATE-GPT: {results.language['crate']['decoded']['text']!r}",
            "CRATE-GPT has four layers of width 256. A run before had ten of width 128, at a rate of 2e-3: after as many "
            "updates it was at 3.25 nats per byte, which is what the frequencies of bytes give.",
        ],
        "seconds": parts.seconds(),
    }
