"""Plain references of whole texts, computed without a cache, and how close each of their decisions was."""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxdec.language_model import LanguageModel
from tests.decoding.beam_reference import search
from tests.reference import full_logits


class Text(NamedTuple):
    """One expected text.

    Attributes:
      tokens: generated tokens, the end token included.
      log_prob: their summed log-probability.
      gap: the smallest difference that decided something; below rounding, another text is as right.
    """

    tokens: list[int]
    log_prob: float
    gap: float


class Expected(Protocol):
    """The texts of one prompt."""

    def texts(self, prompt: list[int], budget: int, ends: list[int]) -> list[Text]:
        """Best first."""
        ...


@dataclasses.dataclass
class GreedyTexts:
    """Greedy decoding that feeds the whole text again for every token."""

    model: LanguageModel

    def texts(self, prompt: list[int], budget: int, ends: list[int]) -> list[Text]:
        tokens, log_prob, gap = [], 0.0, np.inf
        while len(tokens) < budget and not (tokens and tokens[-1] in ends):
            logits = full_logits(self.model, [*prompt, *tokens])[-1]
            best, second = np.argsort(logits)[::-1][:2]
            tokens.append(int(best))
            log_prob += float(jax.nn.log_softmax(logits)[best])
            gap = min(gap, float(logits[best] - logits[second]))
        return [Text(tokens, log_prob, gap)]


@dataclasses.dataclass
class BeamTexts:
    """Beam searches in plain Python."""

    model: LanguageModel
    settings: dict

    def texts(self, prompt: list[int], budget: int, ends: list[int]) -> list[Text]:
        laws = {}

        def law(text):
            if text not in laws:
                laws[text] = jax.nn.log_softmax(full_logits(self.model, list(text))[-1]).tolist()
            return laws[text]

        found = search(law, prompt, budget, ends, **self.settings)
        return [Text(list(text.tokens), text.log_prob, found.gap) for text in found.texts]
