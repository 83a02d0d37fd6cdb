"""The memory of retrieval and of tri-gram tables: the model's own outputs to other prompts, and texts beside them.

A collection holds the greedy outputs to all prompts, dealt out in turn to :data:`FOLDS` folds. For a prompt, what a drafter
sees is made of the outputs to the prompts of the *other* folds, most of its own family among them: outputs of the model itself
are the best match that can be had cheaply, and generous where prompts resemble each other. Texts that are no outputs, where
there are any, are there for every prompt.
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
FOLDS = 4  # a table of millions of tokens is large: one for every prompt would not fit


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
    """Outputs by prompt, texts beside them, and what is built from both."""

    def __init__(self, outputs: Mapping[str, Sequence[int]], vocab_size: int, texts: Sequence[Sequence[int]] = ()):
        """``outputs`` are token ids by prompt, ``texts`` those of other texts."""
        self.outputs = {name: list(tokens) for name, tokens in outputs.items()}
        self.texts = texts
        self.vocab_size = vocab_size
        self.fold = {name: index % FOLDS for index, name in enumerate(outputs)}
        self._made = functools.cache(self._make)

    def companions(self, memory: str, prompt: str) -> dict[str, PyTree]:
        """The companion called ``memory`` (none if that is empty), made without the outputs to the prompt's fold."""
        return {memory: self._made(memory, self.fold[prompt])} if memory else {}

    def _make(self, memory: str, left_out: int) -> PyTree:
        made = {"datastore": self.datastore, "trigram_table": self.trigram_table}
        return jax.block_until_ready(made[memory](left_out))

    def datastore(self, left_out: int | None) -> Datastore:
        """Suffix array. What is left out is blanked, so that arrays have one shape whichever fold it is."""
        outputs = [
            [-1] * len(tokens) if self.fold[name] == left_out else tokens for name, tokens in self.outputs.items()
        ]
        return build_datastore([*self.texts, *outputs], self.vocab_size)

    def trigram_table(self, left_out: int | None) -> TrigramTable:
        """Tri-gram table. Its size is a power of two and hardly ever depends on what is left out."""
        outputs = [tokens for name, tokens in self.outputs.items() if self.fold[name] != left_out]
        return build_trigram_table([*self.texts, *outputs], self.vocab_size)
