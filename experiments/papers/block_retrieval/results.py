"""What was measured, and the numbers that tables, figures and verdicts take from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdec.attention.sparse.actqkv import ActQKV

EVERYTHING, NO_BLOCKS, OURS = "everything", "no blocks", "activation, dynamic"


@dataclasses.dataclass(frozen=True)
class Results:
    """All parts.

    Attributes:
      rule: of the paper's arm.
      budgets: blocks, rising.
      recall: what :func:`measurements.recall_part` gave for each text.
      answers: by arm and text, what :func:`measurements.answer_part` gave; everything first.
      exact: see :func:`measurements.exact_part`.
    """

    rule: ActQKV
    budgets: Sequence[int]
    recall: Sequence[Mapping[str, Any]]
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    exact: Mapping[str, Any]

    def questions(self, place: str) -> list[Mapping[str, Any]]:
        """Of all texts."""
        return [question for text in self.recall for question in text["questions"] if question["place"] == place]

    def found(self, place: str, probe: str, budget: int) -> np.ndarray:
        """By question: share of layers that have the fact's block among so many."""
        return np.asarray([np.mean(np.asarray(q["rank"][probe]) < budget) for q in self.questions(place)])

    def weighted(self, place: str, probe: str, budget: int) -> np.ndarray:
        """By question: the same, of layers weighted by the attention that the fact's block receives in them."""
        return np.asarray(
            [np.average(np.asarray(q["rank"][probe]) < budget, weights=q["gold"]) for q in self.questions(place)]
        )

    def covered(self, place: str, probe: str, budget: int) -> np.ndarray:
        """By question: share of attention in so many blocks."""
        return np.asarray([q["covered"][probe][str(budget)] for q in self.questions(place)])

    def by_chance(self, budget: int) -> float:
        """Recall of blocks drawn at random, mean over questions."""
        return float(np.mean([min(budget / text["blocks"], 1) for text in self.recall for _ in text["questions"]]))

    def by_layer(self, place: str, probe: str, budget: int) -> np.ndarray:
        """By layer: share of questions whose fact's block is among so many."""
        return np.mean([np.asarray(q["rank"][probe]) < budget for q in self.questions(place)], axis=0)

    @property
    def temperatures(self) -> list[str]:
        """Of which there are densities, the published one first."""
        return list(self.recall[0]["densities"])

    def densities(self, temperature: str) -> np.ndarray:
        """``[windows of all texts, layers]``."""
        return np.concatenate([np.asarray(text["densities"][temperature]) for text in self.recall])

    def shared(self, temperature: str, budget: int) -> dict[str, np.ndarray]:
        """By question: recall with equal budgets, with those that follow densities, and the latter's blocks."""
        rows = [
            row
            for text in self.recall
            for row in text["dynamic"]
            if row["temperature"] == float(temperature) and row["budget"] == budget
        ]
        return {name: np.asarray([row[name] for row in rows]) for name in ("equal", "dynamic", "blocks")}

    def right(self, arm: str) -> np.ndarray:
        """By question: 1 where the answer was chosen."""
        return np.asarray([right for text in self.answers[arm] for right in text["right"]], float)

    def log_prob(self, arm: str) -> np.ndarray:
        """By question, of the answer."""
        return np.asarray([value for text in self.answers[arm] for value in text["log_prob"]])

    def surprisal(self, arm: str, after: int) -> np.ndarray:
        """By window of the texts, leaving the first ones of each out, in nats."""
        return np.asarray([value for text in self.answers[arm] for value in text["surprisal"][after:]])

    @property
    def without_blocks(self) -> int:
        """Windows at the beginning of a text that have no block to read."""
        first = self.rule.sinks + self.rule.local + self.rule.block_size
        return -(-first // self.rule.window)

    def read(self, arm: str) -> float:
        """Tokens that a layer reads, over those of everything."""
        mine, whole = ([text["read"] for text in self.answers[name]] for name in (arm, EVERYTHING))
        return float(np.sum(mine) / np.sum(whole))
