"""Replica of ADED (Liu et al. 2025, arXiv 2407.12021): drafts from a table of tri-grams that adapts while it decodes.

SmolLM2-135M decodes two sets of prompts greedily, once: six families of eight, two domains of twenty similar ones. Nearly all
arms then *replay* these texts: the real engine, drafter and verification decode them again with the recording in the target's
place (:mod:`experiments.papers.adaptive_drafting.recorded_model`), since tokens per call depend on the text and the drafter
alone. One arm is decoded by the target itself for every prompt, which shows that replays and decodes agree; times are the
target's too.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.papers.adaptive_drafting.arms import arms_of
from experiments.papers.adaptive_drafting.bench import Bench
from experiments.papers.adaptive_drafting.figures import draw_figures
from experiments.papers.adaptive_drafting.measurements import carried_part, clock_part, cost_part, replay_all
from experiments.papers.adaptive_drafting.real_decoding import decode_all
from experiments.papers.adaptive_drafting.results import Results, draft_counts
from experiments.papers.adaptive_drafting.tables import tables
from experiments.papers.adaptive_drafting.verdicts import all_claims
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress

COMPUTING = tuple(
    importlib.import_module(f"experiments.papers.adaptive_drafting.{name}")
    for name in ("arms", "bench", "carrying", "corpora", "greedy_chain", "greedy_texts", "measurements", "real_decoding",
                 "recorded_model", "replay")
)  # fmt: skip
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    bench = Bench(config, parts, progress)
    arms = arms_of(config)
    counts = {
        arm.name: parts.get(f"replay_{arm.slug}", functools.partial(replay_all, arm, bench, progress)) for arm in arms
    }
    carried = carried_part(bench, parts, progress)
    by_name = {arm.name: arm for arm in arms}
    own = by_name["adaptive own"]
    decoded = parts.get(
        "decoded_adaptive_own",
        lambda: decode_all(
            own.method,
            functools.partial(bench.companions, own),
            bench.lm,
            bench.some("decoded_per_group"),
            bench.room,
            progress,
        ),
    )
    costs = parts.get("costs", lambda: cost_part(by_name, bench, progress))
    step_ms = {int(n): ms for n, ms in costs["step_ms"].items()}
    clock = parts.get("clock", lambda: clock_part(step_ms, bench, progress))
    results = Results(
        groups={(item.set, item.id): (item.set, item.group) for item in bench.items},
        counts={
            name: {(entry["set"], entry["id"]): draft_counts(entry) for entry in found}
            for name, found in counts.items()
        },
        carried=carried,
        decoded=decoded,
        clock=clock,
        step_ms=step_ms,
        drafting_ms=costs["drafting_ms"],
        nodes={arm.name: arm.drafter.num_nodes for arm in arms},
        corpus=parts.get("corpus", lambda: bench.foreign[1]),
    )
    return {
        "title": "Adaptive Draft-Verification for Efficient Large Language Model Decoding",
        "source": "arXiv 2407.12021",
        "files": [f"jaxdec/decoding/speculative/{name}.py" for name in ("aded", "puct", "trigram_table")],
        "guarantee": str(own.method.guarantee),
        "claims": all_claims(results, config["nodes"], config["constants"]),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(results, config),
        "seconds": parts.seconds(),
    }


def notes(results: Results, config: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the claims."""
    corpus = results.corpus
    return [
        "Replays: all arms but those on the clock decode the recorded greedy text again, with the recording in the target's "
        "place; a replay that gives another text stops the run. The first claim says how far replays and decodes agree.",
        f"Foreign corpus: {corpus['characters']} characters ({corpus['tokens']} tokens, {corpus['pairs']} pairs), sources of "
        "Python's standard library and documentation of Python and of packages; the authors' are 574 MB to 1 GB of chat or "
        f"code. Own corpus: what the target said to all other prompts, up to {config['long_text']} tokens each.",
        f"Prompts are single turns, texts are cut at {config['new_tokens']} new tokens. A domain is twenty similar prompts.",
        "An adaptive table learns from the last 16 tokens at every step, as the authors' code does; the rest of the prompt is "
        "not learnt. The arms 'prompt learnt' begin with its tri-grams; 'step' is what an occurrence adds (0.04 in the code).",
        "The rules by which claims are judged were fixed before the full run. The claim on learning the prompt was added when "
        "first replays had shown how much of summaries, extractions and edits is copied from the prompt; after the full run "
        "the claim on corpora was split by set of prompts, and times taken on a busy machine were made to decide nothing.",
    ]
