"""The decoding methods that are compared, and the lists of texts that they return.

No list is re-ranked: texts are ordered by log-probability, so beams have no length penalty.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.papers.progress import Progress
from jaxdec.decoding import Autoregressive, BeamSearch, DiverseBeamSearch, Method, Prompt, Sampling, decode
from jaxdec.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Arm:
    """One method of the comparison.

    Attributes:
      family: ``"beam"``, ``"diverse"``, ``"siblings"`` or ``"sample"``.
      num_beams: texts in a list.
      num_groups: of diverse beam search; 1 for the others.
      strength: lambda of diverse beam search, or gamma of the sibling penalty; 0 for the others.
    """

    family: str
    num_beams: int
    num_groups: int = 1
    strength: float = 0.0

    @property
    def name(self) -> str:
        """For tables."""
        if self.family == "diverse":
            return f"diverse G={self.num_groups} lambda={self.strength:g}"
        return f"siblings gamma={self.strength:g}" if self.family == "siblings" else self.family

    @property
    def slug(self) -> str:
        """For files."""
        return self.name.replace(" ", "_").replace("=", "")

    def method(self) -> Method:
        """The decoding method."""
        if self.family == "sample":
            return Autoregressive(Sampling(temperature=1.0), num_samples=self.num_beams)
        if self.family == "diverse":
            return DiverseBeamSearch(self.num_beams, self.num_groups, self.strength, length_penalty=0.0)
        return BeamSearch(self.num_beams, length_penalty=0.0, sibling_penalty=self.strength)


def arms(
    num_beams: int, groups: Sequence[int], strengths: Sequence[float], sibling_penalties: Sequence[float]
) -> list[Arm]:
    """All arms of one list size; ``num_beams`` groups are always among them."""
    diverse = [
        Arm("diverse", num_beams, num_groups, strength)
        for num_groups in dict.fromkeys((*groups, num_beams))
        for strength in sorted(strengths)
    ]
    siblings = [Arm("siblings", num_beams, strength=penalty) for penalty in sibling_penalties]
    return [Arm("beam", num_beams), *diverse, *siblings, Arm("sample", num_beams)]


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[Sequence[Sequence[int]]]:
    """Cut prompts into batches of one size, the last one filled up with copies of its first prompt."""
    for begin in range(0, len(prompts), size):
        batch = list(prompts[begin : begin + size])
        yield batch + batch[:1] * (size - len(batch))


def decode_lists(
    arm: Arm,
    what: str,
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    progress: Progress,
    *,
    max_new_tokens: int,
    eos_tokens: Sequence[int],
    batch_size: int,
    seed: int,
) -> list[list[dict[str, Any]]]:
    """Decode every prompt with one arm; ``what`` says what the prompts are.

    Returns:
      Per prompt its texts, likeliest first: ``{"tokens", "log_prob", "calls"}``, the end token included.
    """
    lists: list[list[dict[str, Any]]] = []
    cut = list(batches(prompts, batch_size))
    with progress.task(f"{what}, B={arm.num_beams}: {arm.name}", len(cut)) as advance:
        for number, batch in enumerate(cut):
            prompt = Prompt.create(batch, max_new_tokens, eos_tokens=eos_tokens, seed=seed + number)
            found = decode(arm.method(), model, prompt)
            tokens, length, log_prob, calls = (
                np.asarray(x).tolist() for x in (found.tokens, found.length, found.log_prob, found.target_calls)
            )
            for row in range(len(batch)):
                texts = [
                    {"tokens": tokens[row][k][: length[row][k]], "log_prob": log_prob[row][k], "calls": calls[row][k]}
                    for k in range(arm.num_beams)
                    if length[row][k] > 0
                ]
                lists.append(sorted(texts, key=lambda text: -text["log_prob"]))
            advance("")
    return lists[: len(prompts)]
