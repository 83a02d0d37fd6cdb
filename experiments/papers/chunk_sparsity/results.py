"""What was measured, and the numbers that tables, figures and verdicts take from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdec.evaluation import Interval, mean_interval


@dataclasses.dataclass(frozen=True)
class Results:
    """All parts.

    Attributes:
      plain: what :func:`measurements.prefill_part` found without a rule.
      prefills: the same, by rule.
      bilevel: what :func:`measurements.bilevel_part` found.
      previous: chunks before its own that a token read where caches were assembled.
      compression: tokens in a window there.
    """

    plain: Mapping[str, Any]
    prefills: Sequence[Mapping[str, Any]]
    bilevel: Mapping[str, Any]
    previous: int
    compression: int

    def prefill(self, previous: int, markers: bool = True) -> Mapping[str, Any]:
        """The prefill under one rule."""
        return next(one for one in self.prefills if (one["previous"], one["markers"]) == (previous, markers))

    def with_markers(self, markers: bool) -> list[Mapping[str, Any]]:
        """Prefills by rising ``previous``."""
        return sorted((one for one in self.prefills if one["markers"] == markers), key=lambda one: one["previous"])

    def arm(self, relevance: str, top: int = 0, **others: Any) -> Mapping[str, Any]:
        """The arm of this relevance, at the main compression and without options unless told."""
        wanted = {
            "relevance": relevance,
            "top": top,
            "compression": self.compression,
            "reposition": True,
            "log_mass": False,
        }
        wanted |= others
        return next(arm for arm in self.bilevel["arms"] if all(arm[name] == value for name, value in wanted.items()))

    def sweep(self, relevance: str, top: int = 0) -> list[Mapping[str, Any]]:
        """Arms by rising compression."""
        sizes = sorted({arm["compression"] for arm in self.bilevel["arms"]})
        return [self.arm(relevance, top, compression=size) for size in sizes]

    @property
    def tops(self) -> list[int]:
        """Numbers of chunks that were chosen."""
        return sorted({arm["top"] for arm in self.bilevel["arms"] if arm["relevance"] == "bm25"})

    @property
    def middle(self) -> int:
        """The one that claims are about."""
        return self.tops[len(self.tops) // 2]

    def recall(self, name: str, top: int) -> float:
        """How often the chunk with the answer is among the ``top`` best."""
        return float(np.mean(np.array(self.bilevel["ranks"][name]) < top))

    def chance(self, top: int) -> float:
        """The recall of drawing."""
        return min(top / (self.bilevel["chunks"] - 2), 1.0)


def right(part: Mapping[str, Any]) -> float:
    """Share of the answers that greedy decoding would give."""
    return float(np.mean(part["right"]))


def log_prob(part: Mapping[str, Any]) -> float:
    """Mean log-probability of the answers."""
    return float(np.mean(part["log_prob"]))


def gain(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str = "log_prob") -> Interval:
    """Mean difference with its bootstrap interval (95 %), question by question or token by token."""
    return mean_interval(np.subtract(np.asarray(ours[name], float), np.asarray(theirs[name], float)))
