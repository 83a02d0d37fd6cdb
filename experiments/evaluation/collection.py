"""The model's own outputs as the memory of retrieval and of tri-gram tables, the prompt at hand left out.

A collection holds the greedy outputs to all prompts. For a prompt, what a drafter sees is made of the outputs to the *other*
prompts, those of its own family among them. Outputs of the model itself are the best match that can be had cheaply, and leaving
only the prompt out is generous where prompts resemble each other: numbers of these arms say what a memory of one's own earlier
answers is worth, not what a foreign text collection is.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import decode
from jaxdec.decoding.speculative.datastore import Datastore, build_datastore
from jaxdec.decoding.speculative.trigram_table import TrigramTable, build_trigram_table
from jaxdec.language_model import LanguageModel
from jaxdec.typing import PyTree

TOKENS = 192
BATCH = 8


def greedy_outputs(
    model: LanguageModel, prompts: Mapping[str, Sequence[int]], eos_tokens: Sequence[int], max_new_tokens: int = TOKENS
) -> dict[str, list[int]]:
    """Greedy outputs to prompts in token ids, by prompt; in batches, those of like length together."""
    outputs = {}
    names = sorted(prompts, key=lambda name: (len(prompts[name]), name))
    for batch in (names[i : i + BATCH] for i in range(0, len(names), BATCH)):
        rows = [list(prompts[name]) for name in batch]
        filled = rows + rows[:1] * (BATCH - len(rows))  # one batch size, few programs
        inputs = Prompt.create(filled, max_new_tokens, eos_tokens=eos_tokens, vocab_size=model.vocab_size)
        decoded = decode(Autoregressive(), model, inputs)
        tokens, length = np.asarray(decoded.tokens), np.asarray(decoded.length)
        for row, name in enumerate(batch):
            outputs[name] = tokens[row, 0, : length[row, 0]].tolist()
    return {name: outputs[name] for name in prompts}


class Collection:
    """Outputs by prompt, and what is built from them."""

    def __init__(self, outputs: Mapping[str, Sequence[int]], vocab_size: int):
        """``outputs`` are token ids by prompt."""
        self.outputs = {name: list(tokens) for name, tokens in outputs.items()}
        self.vocab_size = vocab_size
        self.companions = functools.cache(self._companions)

    def _companions(self, memory: str, left_out: str) -> dict[str, PyTree]:
        """The companion called ``memory`` (none if that is empty), made without the output to the prompt ``left_out``."""
        made = {"datastore": self.datastore, "trigram_table": self.trigram_table}
        return {memory: jax.block_until_ready(made[memory](left_out))} if memory else {}

    def datastore(self, left_out: str) -> Datastore:
        """Suffix array. The output left out is blanked, so that arrays have one shape whichever it is."""
        texts = [[-1] * len(tokens) if name == left_out else tokens for name, tokens in self.outputs.items()]
        return build_datastore(texts, self.vocab_size)

    def trigram_table(self, left_out: str) -> TrigramTable:
        """Tri-gram table. Its size is a power of two and hardly ever depends on what is left out."""
        return build_trigram_table(
            [tokens for name, tokens in self.outputs.items() if name != left_out], self.vocab_size
        )
