"""The second model, SmolLM2-135M, continuing texts: how varied and how likely its lists are. There is no right answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.smoke_model import write_smoke_model
from jaxdec.evaluation import distinct_n, self_bleu
from jaxdec.loading import LoadedModel, load
from jaxdec.tokenizers import Tokenizer

NGRAMS = (1, 2, 3, 4)


def loaded_model(name: str, folder: Path) -> LoadedModel:
    """Load a model by name or path; ``""`` is a tiny random one, written to ``folder``."""
    if name:
        return load(name)
    folder.mkdir(parents=True, exist_ok=True)
    return load(str(write_smoke_model(folder / "random.gguf")))


def scores_by_item(lists: Sequence[Sequence[Mapping[str, Any]]], tokenizer: Tokenizer) -> dict[str, list[float]]:
    """Every score of every list, by name. N-grams are of words, as they stand between blanks; BLEU splits them its own way."""
    items = [_scores(texts, tokenizer) for texts in lists]
    return {name: [item[name] for item in items] for name in items[0]}


def _scores(texts: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> dict[str, float]:
    decoded = [tokenizer.decode(text["tokens"]) for text in texts]
    log_probs = [text["log_prob"] for text in texts]
    return {
        **{f"distinct-{n}": distinct_n([text.split() for text in decoded], n) for n in NGRAMS},
        "self_bleu": self_bleu(decoded),
        "different": len(set(decoded)) / len(decoded),
        "best_log_prob": max(log_probs),
        "mean_log_prob": float(np.mean(log_probs)),
        "calls": float(texts[0]["calls"]),
    }
