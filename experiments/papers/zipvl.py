"""Replica of ZipVL (He et al. 2024, arXiv 2410.08584, first version): as many important tokens as hold most of the attention.

SmolLM2-135M, float32, on text. *Continuations* of windows of prose and code, and *needles* in a filler, under attention among
important tokens, with the number following layer and text or fixed, chosen by normalised scores or by attention received, from
both kinds of probes or one. *Caches* at 8, 4 and 2 bits, and in two precisions by importance, on longer texts. *Ratios*
by layer. *Times* of whole prefills. What is claimed, and how it is judged: :mod:`experiments.papers.token_sparsity.verdicts`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.evaluation.precision_texts import source_texts
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes import texts as needle_module
from experiments.papers.shared_prefixes.texts import filler
from experiments.papers.token_sparsity import arms as arms_module
from experiments.papers.token_sparsity import measurements
from experiments.papers.token_sparsity.arms import DENSE, EXTREMES, attention_arms, cache_arms, dynamic, fixed_arm
from experiments.papers.token_sparsity.report import draw_figures, tables
from experiments.papers.token_sparsity.verdicts import FIXED, Results, all_claims
from jaxdec.evaluation.perplexity import windows
from jaxdec.loading import LoadedModel

COMPUTING = (arms_module, measurements, needle_module)  # a change to these makes all parts anew


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)

    @functools.cache
    def lm() -> LoadedModel:
        return loaded_model(config["model"], parts.folder)

    @functools.cache
    def texts() -> list[measurements.Text]:
        width, after = config["tokens"], config["continuation"]
        cut = [
            windows(lm().tokenizer.encode(text, add_bos=False), width + after, config["windows"])
            for text in source_texts().values()
        ]
        return [(row[:width].tolist(), row[width:].tolist()) for rows in cut for row in rows]

    @functools.cache
    def needles() -> list[measurements.Text]:
        own = config["needles"]
        return measurements.needle_texts(lm().tokenizer.encode, own["tokens"], own["seeds"], own["asked"])

    @functools.cache
    def cache_texts() -> list[measurements.Text]:
        own = config["caches"]
        return measurements.cache_texts(lm().tokenizer.encode, config["tokens"], own["continuation"], own["windows"])

    thresholds, (last, drawn), seed = tuple(config["thresholds"]), config["probes"], config["seed"]
    kinds = attention_arms(thresholds, last, drawn)
    middle = dynamic(thresholds[len(thresholds) // 2])

    def ratios(source: str, of: Any, arms: Mapping[str, Any]) -> Any:
        return measurements.ratios_part(lm().model, of(), arms, seed, progress, f"ratios of {source}")

    def scores(name: str, of: Any, arms: Mapping[str, Any]) -> Any:
        return measurements.scores_part(lm().model, of(), arms, seed, progress, name)

    found = {name: parts.get(f"ratios_{name}", functools.partial(ratios, name, of, kinds))
             for name, of in (("texts", texts), ("needles", needles))}  # fmt: skip
    both = [share for source in found.values() for row in source[middle]["ratio"] for share in row]
    mean_ratio = round(sum(both) / len(both), 4)
    fixed = {FIXED: fixed_arm(mean_ratio, last, drawn)}
    ratio_of_fixed = {name: parts.get(f"ratios_{name}_fixed", functools.partial(ratios, name, of, fixed))
                      for name, of in (("texts", texts), ("needles", needles))}  # fmt: skip
    in_bits = cache_arms(thresholds[len(thresholds) // 2], last, drawn, config["window"])
    with_dense = {DENSE: kinds[DENSE], **in_bits}
    timed = {arm: kinds[arm] for arm in (DENSE, *map(dynamic, thresholds))}
    results = Results(
        thresholds=thresholds,
        texts=parts.get("texts", lambda: scores("continuations", texts, {**kinds, **fixed})),
        needles=parts.get("needles", lambda: scores("needles", needles, {**kinds, **fixed})),
        ratios={name: {**source, **ratio_of_fixed[name]} for name, source in found.items()},
        caches=parts.get("caches", lambda: scores("caches", cache_texts, with_dense)),
        nbytes=parts.get("bytes", lambda: measurements.bytes_part(lm().model, texts()[0], with_dense, seed)),
        prefill=parts.get(
            "prefill",
            lambda: measurements.prefill_part(
                lm().model,
                {length: filler(lm().tokenizer.encode, length) for length in config["prefill"]["lengths"]},
                timed,
                config["prefill"]["rounds"],
                progress,
            ),
        ),
    )
    loads = [case["foreign_load"] for case in results.prefill]
    return {
        "title": "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification",
        "source": "arXiv 2410.08584v1",
        "files": ["jaxdec/attention/sparse/zipvl.py", "jaxdec/attention/sparse/token_sparse.py",
                  "jaxdec/cache/quantized.py"],
        "guarantee": "approximate",
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": [
            "The paper's prompts are images and video, which say the same many times over; ours are prose, code, and a filler "
            "with facts in it.",
            f"The fixed number of important tokens is {mean_ratio:.1%}, the mean of {middle} over texts and needles.",
            "Continuations are fed token by token through the cache that decoding uses. The first token comes from the "
            "prefill, which the rules of the cache do not change.",
            "Caches are judged by texts of their own, more of them and longer: what is rounded changes less than what is left "
            f"out. Ranges of codes are fitted unless an arm says {EXTREMES.strip(', ')!r}.",
            "Bytes are of what is reserved when decoding begins. The dense cache reserves whole buckets of slots, more than "
            "the prompt and what follows would need, which flatters the others.",
            f"Times are medians of rounds in turns; foreign load in cores {loads}. Above 0.1 they are not to be relied on.",
        ],
        "seconds": parts.seconds(),
    }  # fmt: skip
