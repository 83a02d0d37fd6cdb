"""What tables are built from: text that has nothing to do with the prompts, or what the target said to other prompts.

*Foreign*: files of Python's standard library and of the packages that jaxdec depends on. They ship with every installation; the
report states their size. Code, and prose about code: no chat, no extraction. *Own*: the long greedy texts of all prompts
of both sets but the one that is decoded.
"""

import importlib.metadata
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from experiments.papers.adaptive_drafting.greedy_texts import Item
from jaxdec.decoding.speculative.trigram_table import TrigramTable, build_trigram_table
from jaxdec.tokenizers import Tokenizer

FOREIGN, OWN, NONE = "foreign", "own", "none"
PROSE_PACKAGES = ("absl-py", "chex", "flax", "gguf", "huggingface-hub", "jax", "jinja2", "matplotlib", "ml-collections",
                  "numpy", "optax", "rich", "sacrebleu", "safetensors", "scipy", "tokenizers")  # fmt: skip
"""Distributions whose long descriptions count as prose, where they are installed."""


def foreign_texts(characters: int) -> list[str]:
    """At most ``characters`` of text: up to half of it documentation, up to half sources of the standard library."""
    return [*_up_to(_prose(), characters // 2), *_up_to(_code(), characters // 2)]


def _prose():
    import pydoc_data.topics

    yield from (text for _, text in sorted(pydoc_data.topics.topics.items()))
    for name in PROSE_PACKAGES:
        try:
            yield importlib.metadata.metadata(name).json.get("description", "")
        except importlib.metadata.PackageNotFoundError:
            continue


def _code():
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def _up_to(texts, characters: int) -> list[str]:
    """The first texts, the last of them cut."""
    kept, left = [], characters
    for text in texts:
        if left <= 0:
            break
        kept.append(text[:left])
        left -= len(text)
    return [text for text in kept if text]


def foreign_table(tokenizer: Tokenizer, vocab_size: int, characters: int) -> tuple[TrigramTable, dict[str, int]]:
    """The table, and what it was built from: ``texts``, ``characters``, ``tokens``, ``pairs``."""
    texts = foreign_texts(characters)
    encoded = [tokenizer.encode(text) for text in texts]
    table = build_trigram_table(encoded, vocab_size)
    size = {
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "tokens": sum(map(len, encoded)),
        "pairs": int((table.pairs[:, 0] >= 0).sum()),
    }
    return table, size


def own_table(items: Sequence[Item], item: Item, vocab_size: int) -> TrigramTable:
    """From the long texts of all items but ``item``."""
    texts = [list(other.long_text) for other in items if (other.set, other.id) != (item.set, item.id)]
    return build_trigram_table(texts, vocab_size)
