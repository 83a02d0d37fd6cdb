"""What was measured with one list size."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.arms import Arm

Scores = Mapping[Arm, Mapping[str, Sequence[float]]]
"""Every score of every item, by arm."""
Means = Mapping[Arm, Mapping[str, float]]
"""Mean of every score, by arm."""


def mean(scores: Scores, arm: Arm, score: str) -> float:
    """Over items."""
    return float(np.mean(scores[arm][score]))


def means(scores: Scores) -> Means:
    """All of them."""
    return {arm: {score: mean(scores, arm, score) for score in own} for arm, own in scores.items()}


def best_arm(scores: Scores, score: str, family: str, num_groups: int | None = None) -> Arm:
    """The arm of a family with the largest mean; this is how lambda and gamma are chosen on the validation items."""
    candidates = [
        arm for arm in scores if arm.family == family and (num_groups is None or arm.num_groups == num_groups)
    ]
    return max(candidates, key=lambda arm: mean(scores, arm, score))


@dataclasses.dataclass(frozen=True)
class Task:
    """What was measured on one paraphrase task with one list size.

    Attributes:
      num_beams: the list size.
      validation: scores on the stories on which settings are chosen.
      test: scores on the other stories.
      pooled: distinct-n of all test lists taken as one, by arm.
    """

    num_beams: int
    validation: Scores
    test: Scores
    pooled: Means

    def chosen(self, family: str, num_groups: int | None = None) -> Arm:
        """The arm of a family that is best on the validation stories, by oracle BLEU of the whole list."""
        return best_arm(self.validation, self.oracle, family, num_groups)

    @property
    def beam(self) -> Arm:
        """Beam search."""
        return Arm("beam", self.num_beams)

    @property
    def tuned(self) -> Arm:
        """Diverse beam search as the paper uses it: as many groups as beams, lambda chosen on the validation stories."""
        return self.chosen("diverse", self.num_beams)

    @property
    def oracle(self) -> str:
        """Name of the oracle of the whole list."""
        return f"oracle_drawn@{self.num_beams}"


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything measured with one list size.

    Attributes:
      num_beams: the list size.
      tasks: by name, ``short`` and ``long``.
      continuations: scores of SmolLM2's lists.
      timing: see :func:`experiments.papers.diverse_beam.timing.time_arms`.
    """

    num_beams: int
    tasks: Mapping[str, Task]
    continuations: Scores
    timing: Mapping[str, Mapping[str, Any]]
