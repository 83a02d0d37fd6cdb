"""Replica of The Sparse Frontier (Nawrot et al. 2025, arXiv 2504.17768): what sparse attention costs, and when it pays.

*Small models*, trained here on retrieval tasks in symbols: accuracy under six rules, compressions and lengths, from which
come the scaling law, the largest safe compression and accuracy at equal cost. *SmolLM2-135M*: what the rules leave of its
attention over text. What is claimed, and how it is judged: :mod:`experiments.papers.long_context.verdicts`.
"""

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxdec
from experiments.evaluation.precision_texts import source_texts
from experiments.papers.diverse_beam.continuation_lists import loaded_model
from experiments.papers.long_context.figures import draw_figures
from experiments.papers.long_context.recall import DECODED, recall_part
from experiments.papers.long_context.results import Results
from experiments.papers.long_context.small_models import trained_model
from experiments.papers.long_context.sweep import sweep
from experiments.papers.long_context.swept_rules import DECODE, PREFILL
from experiments.papers.long_context.tables import tables
from experiments.papers.long_context.verdicts import all_claims
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding.state import Guarantee
from jaxdec.evaluation.attention_costs import ModelShape
from jaxdec.evaluation.long_context.token_tasks import TASKS, VOCAB_SIZE, TokenTaskSizes, chance
from jaxdec.language_model import LanguageModel

OWN = ("recall", "small_models", "sweep", "swept_caches", "swept_rules")
KERNELS = ("tiled_attention",)
COMPUTING = tuple(
    importlib.import_module(name)
    for name in (
        *(f"experiments.papers.long_context.{name}" for name in OWN),
        *(f"pallas_kernels.{name}.xla" for name in KERNELS),
    )
)
"""A change to these makes all parts anew."""


def run(config: Mapping[str, Any], out_dir: Path, progress: Progress) -> dict[str, Any]:
    """Train and compute what is missing, draw, judge."""
    jaxdec.enable_compilation_cache()
    parts = Parts.open(out_dir / "parts", config, COMPUTING)
    sizes = TokenTaskSizes(**config["tasks"])
    folder = parts.subfolder("models")
    models = range(len(config["models"]))

    @functools.cache
    def model(number: int) -> LanguageModel:
        return trained_model(config, config["models"][number], sizes, config["seed"], folder / str(number), progress)

    def swept(number: int) -> dict[str, Any]:
        settings = config["sweep"]
        entries = sweep(model(number), settings["lengths"], settings, sizes, progress)
        return {"params": model(number).num_params(), "entries": entries}

    for number in models:  # checkpoints stay, so that an interrupted training goes on
        parts.get(f"training_{number}", lambda number=number: {"params": model(number).num_params()})
    sweeps: Any = [parts.get(f"sweep_{number}", functools.partial(swept, number)) for number in models]
    results = Results(
        shapes=[shape_of(config["models"][number]) for number in models],
        params=[one["params"] for one in sweeps],
        sweeps=[one["entries"] for one in sweeps],
        recall=parts.get("recall", lambda: recalled(config, parts.folder, progress)),  # type: ignore[arg-type]
        chance={task: chance(task, sizes) for task in TASKS},
        seed=config["seed"],
    )
    return {
        "title": "The Sparse Frontier: Sparse Attention Trade-offs in Transformer LLMs",
        "source": "arXiv 2504.17768",
        "files": [
            f"jaxdec/attention/sparse/{name}.py"
            for name in ("vertical_slash", "flex_prefill", "block_sparse", "quest", "snapkv", "ada_snapkv")
        ],
        "guarantee": str(Guarantee.APPROXIMATE),
        "claims": all_claims(results),
        "tables": tables(results),
        "figures": draw_figures(results, out_dir),
        "notes": notes(config),
        "seconds": parts.seconds(),
    }


def shape_of(size: Mapping[str, Any]) -> ModelShape:
    """The sizes that costs depend on, of a small model."""
    hidden, heads = size["hidden_size"], size["num_heads"]
    return ModelShape(
        num_layers=size["num_layers"],
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads // 2,
        head_dim=hidden // heads,
        intermediate_size=2 * hidden,
        vocab_size=VOCAB_SIZE,
        tie_embeddings=True,
    )


def recalled(config: Mapping[str, Any], folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """The part on SmolLM2: the beginning of the texts, in each length."""
    lm = loaded_model(config["model"], folder)
    tokens = lm.tokenizer.encode("\n\n".join(source_texts().values()), add_bos=False)
    lengths = config["recall"]["lengths"]
    if max(lengths) > len(tokens):
        raise ValueError(f"recall.lengths must be at most {len(tokens)}, the tokens there are; got {max(lengths)}")
    if min(lengths) <= 2 * DECODED:
        raise ValueError(f"recall.lengths must be more than {2 * DECODED}; got {min(lengths)}")
    texts = [tokens[:length] for length in lengths]
    return recall_part(lm.model, texts, config["recall"], {"prefill": PREFILL, "decode": DECODE}, progress)


def notes(config: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the claims."""
    return [
        "Claims of the paper are those of its first version where nothing else is said; the second one counts decoding in "
        "bytes and words some conclusions differently.",
        "The small models are trained on the very tasks they are asked, over 8 to 512 tokens of symbols. Their prompts hold "
        "16 pairs, 4 chains of 4 links, or lists of 32 words; everything else is noise, so that longer prompts are mostly more "
        "noise. The paper fills prompts with distractors.",
        "Prefill is scored with the right answer fed along: every token of it is judged after sparse attention over all before "
        "it. The paper decodes densely behind a sparse prefill; answers of one token each leave no such decoding here.",
        "In the sweep rules are masks over dense attention (vertical-slash and FlexPrefill: the cells of their equations, not "
        "whole tiles), so that all of their sizes are one program; the project's tests hold the loops that save work to these "
        "masks. On SmolLM2 rules of the prompt run in those loops.",
        "Compressions are measured: shares of causal cells for rules of the prompt, tokens of the prompt that a step reads for "
        "rules of decoding. FlexPrefill's follow the text.",
        f"{config['sweep']['samples']} samples in a cell. A loss that they cannot show is called safe, so that the largest "
        "safe compression is flattering; the level is shared by the compressions of a cell.",
        "The law is fitted to accuracies of one seed of training per size. Sums are ordered by the number of cores, so that "
        "the same seed ends in other weights on one core than on two. Two full runs differed so: two of sixteen verdicts "
        "changed (longer prompts tolerate more: open on two cores, yes on one; counting loses more than finding one thing: yes "
        "on two, no on one).",
    ]
