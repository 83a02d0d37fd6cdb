"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules (thresholds, intervals, how settings are chosen) were fixed before anything was measured in full. A comparison of two
methods is a mean of differences item by item with its bootstrap interval (95 %). With several list sizes a claim reproduces if
it does for each, does not if it fails for one, and is open otherwise: an interval that contains zero decides nothing.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.arms import Arm
from experiments.papers.diverse_beam.results import Scores, mean
from jaxdec.evaluation import Interval, mean_interval

UNCHANGED = 2.0
"""BLEU points within which a first text counts as no better and no worse."""
MOSTLY = 0.9
"""Share of single steps that must rise where a quantity is said to rise."""
SAME_TIME = 1.15
"""Ratio of times up to which the cost counts as the same."""


def claim(
    text: str, paper: str, measured: str, verdicts: Sequence[bool | None], reasons: Mapping[bool | None, str]
) -> dict[str, Any]:
    """One claim; ``verdicts`` are those of the single comparisons, ``reasons`` why it is open (None) or failed (False)."""
    reproduced = False if False in verdicts else None if None in verdicts else True
    reason = None if reproduced is True else reasons[reproduced]
    return {"claim": text, "paper": paper, "measured": measured, "reproduced": reproduced, "reason": reason}


def difference(scores: Scores, score: str, ours: Arm, theirs: Arm) -> Interval:
    """Mean of ``ours - theirs`` over items."""
    return mean_interval(np.subtract(scores[ours][score], scores[theirs][score]))


def sign_verdict(interval: Interval) -> bool | None:
    """True above zero, False below, None where the interval contains zero."""
    return True if interval.low > 0 else False if interval.high < 0 else None


def told(interval: Interval, digits: int = 1) -> str:
    """``+1.2 [+0.3, +2.0]``."""
    return f"{interval.mean:+.{digits}f} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


@dataclasses.dataclass(frozen=True)
class Rise:
    """How far curves rise.

    Attributes:
      curves: their number.
      higher: those that end above their beginning.
      above: those that end above beam search.
      steps: single steps of all curves.
      up: those that rise.
      deepest: the largest step down, 0 if there is none.
    """

    curves: int
    higher: int
    above: int
    steps: int
    up: int
    deepest: float

    @property
    def verdict(self) -> bool:
        """Every curve ends above its beginning and above beam search, and single steps mostly rise."""
        return self.higher == self.above == self.curves and self.up >= MOSTLY * self.steps

    @property
    def told(self) -> str:
        """In numbers."""
        return (
            f"of {self.curves} curves {self.higher} end higher than they begin and {self.above} above beam search; "
            f"{self.up} of {self.steps} steps rise"
        )

    @property
    def reason(self) -> str:
        """Why the verdict is no."""
        reasons = []
        if self.higher < self.curves:
            reasons.append(f"{self.curves - self.higher} curves do not end higher")
        if self.above < self.curves:
            reasons.append(f"{self.curves - self.above} end no higher than beam search")
        if self.up < MOSTLY * self.steps:
            reasons.append(f"fewer than {MOSTLY:.0%} of the steps rise; the largest fall is {self.deepest:.3f}")
        return "; ".join(reasons)


def rise(sequences: Sequence[Sequence[float]], levels: Sequence[float]) -> Rise:
    """Compare curves with themselves and with beam search's levels."""
    steps = [later - earlier for sequence in sequences for earlier, later in itertools.pairwise(sequence)]
    return Rise(
        curves=len(sequences),
        higher=sum(sequence[-1] > sequence[0] for sequence in sequences),
        above=sum(sequence[-1] > level for sequence, level in zip(sequences, levels, strict=True)),
        steps=len(steps),
        up=sum(step > 0 for step in steps),
        deepest=-min([0.0, *steps]),
    )


def curves(scores: Scores, ngrams: Sequence[int], strengths: Sequence[float], over: str) -> tuple[list, list]:
    """Mean distinct-n against lambda or against G, and beam search's level for each curve.

    Args:
      scores: of all arms.
      ngrams: a set of curves for each of these.
      strengths: values of lambda looked at.
      over: ``"strength"`` (a curve for each G) or ``"num_groups"`` (a curve for each lambda).
    """
    (beam,) = (arm for arm in scores if arm.family == "beam")
    diverse = [arm for arm in scores if arm.family == "diverse" and arm.strength in strengths]
    other = {"strength": "num_groups", "num_groups": "strength"}[over]
    lines, levels = [], []
    for n in ngrams:
        for fixed in sorted({getattr(arm, other) for arm in diverse}):
            line = sorted((arm for arm in diverse if getattr(arm, other) == fixed), key=lambda arm: getattr(arm, over))
            lines.append([mean(scores, arm, f"distinct-{n}") for arm in line])
            levels.append(mean(scores, beam, f"distinct-{n}"))
    return lines, levels
