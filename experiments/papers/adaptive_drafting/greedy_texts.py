"""Prompts, and what the target says to them: greedy texts, decoded once and replayed by every arm.

Two sets: six families of eight prompts, and two domains of twenty similar prompts each. A text is decoded longer than the arms
replay it, since the longer ones are what tables of the model's own output are built from.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.papers.progress import Progress
from experiments.prompts import read_prompts
from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.generation import encode_prompt
from jaxdec.loading import LoadedModel, load

FOLDER = Path(__file__).resolve().parents[2] / "specbench"
FAMILIES, DOMAINS = "families", "domains"
FILES = {FAMILIES: "prompts.jsonl", DOMAINS: "domain_prompts.jsonl"}


@dataclasses.dataclass(frozen=True)
class Item:
    """A prompt and the target's greedy text.

    Attributes:
      set: ``"families"`` or ``"domains"``.
      id: of the prompt in its file.
      group: family or domain.
      prompt: tokens, chat template included.
      text: tokens that arms replay; the end token is included if it came that early.
      long_text: the same text, decoded further; what other prompts' tables learn from.
    """

    set: str
    id: str
    group: str
    prompt: tuple[int, ...]
    text: tuple[int, ...]
    long_text: tuple[int, ...]


@functools.lru_cache(maxsize=1)
def loaded_model(name: str, folder: Path) -> LoadedModel:
    """Load a model by name or path; ``""`` is a tiny random one, written to ``folder``."""
    if name:
        return load(name)
    folder.mkdir(parents=True, exist_ok=True)
    return load(str(write_smoke_model(folder / "random.gguf")))


def prompts_of(which: str, per_group: int) -> list[dict[str, str]]:
    """The first ``per_group`` prompts of each family or domain: ``{"id", "group", "prompt"}``."""
    found: list[dict[str, str]] = []
    for entry in read_prompts(FOLDER / FILES[which]):
        group = str(entry["id"]).rpartition("-")[0]
        if sum(other["group"] == group for other in found) < per_group:
            found.append({"id": str(entry["id"]), "group": group, "prompt": str(entry["prompt"])})
    return found


def decode_texts(config: Mapping[str, Any], lm: LoadedModel, progress: Progress) -> list[dict[str, Any]]:
    """Decode every prompt greedily.

    Args:
      config: ``per_group`` by set, ``long_text`` (new tokens) and ``batch_size``.
      lm: the target.
      progress: where batches are shown.

    Returns:
      Per prompt ``{"set", "id", "group", "prompt", "text"}``; tokens, the end token included.
    """
    entries = [{"set": which, **entry} for which in FILES for entry in prompts_of(which, config["per_group"][which])]
    encoded = [encode_prompt(lm, entry["prompt"], raw=False) for entry in entries]
    order = sorted(range(len(entries)), key=lambda index: len(encoded[index]))  # little padding
    size = config["batch_size"]
    cut = [order[begin : begin + size] for begin in range(0, len(order), size)]
    texts: dict[int, list[int]] = {}
    with progress.task("greedy texts", len(cut)) as advance:
        for batch in cut:
            prompt = Prompt.create(
                [encoded[index] for index in batch],
                config["long_text"],
                eos_tokens=lm.tokenizer.eos_token_ids,
                vocab_size=lm.model.vocab_size,
                max_positions=lm.model.max_positions,
            )
            found = decode(Autoregressive(), lm.model, prompt)
            tokens, length = np.asarray(found.tokens[:, 0]), np.asarray(found.length[:, 0])
            texts |= {index: tokens[row, : length[row]].tolist() for row, index in enumerate(batch)}
            advance("")
    return [{**entry, "prompt": encoded[index], "text": texts[index]} for index, entry in enumerate(entries)]


def items_of(texts: Sequence[Mapping[str, Any]], new_tokens: int) -> list[Item]:
    """Items from what :func:`decode_texts` returned; arms replay the first ``new_tokens`` tokens."""
    return [
        Item(
            set=entry["set"],
            id=entry["id"],
            group=entry["group"],
            prompt=tuple(entry["prompt"]),
            text=tuple(entry["text"][:new_tokens]),
            long_text=tuple(entry["text"]),
        )
        for entry in texts
    ]
