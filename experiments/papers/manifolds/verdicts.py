"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules were fixed before anything was measured in full. A comparison of two arms is a mean over seeds of differences seed by
seed, with its bootstrap interval: a seed has an encoder, and drawn labels that all arms share.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from experiments.papers.manifolds.measurements import PIXELS, RANDOM, mmcr_arm
from jaxdec.evaluation import Interval, mean_interval

MARGIN = 0.04
"""By how much a probe with few labels is to be better."""
ROUNDING = 1e-5
"""Relative error of a bound in float32."""


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
      views: numbers of views trained with.
      labels: numbers of labels of the probes.
      batch_size: images of a batch.
      arms: by arm and seed, :func:`arm_part`.
      sweep: by dimension of the embedding and seed, :func:`sweep_part`.
      norms: times, :func:`norms_part`.
    """

    views: tuple[int, ...]
    labels: tuple[int, ...]
    batch_size: int
    arms: Mapping[str, Sequence[Mapping[str, Any]]]
    sweep: Mapping[int, Sequence[Mapping[str, Any]]]
    norms: Sequence[Mapping[str, Any]]

    def accuracy(self, arm: str, labels: str) -> np.ndarray:
        """Of each seed, its mean over draws."""
        return np.array([np.mean(part["probes"][labels]) for part in self.arms[arm]])

    def geometry(self, arm: str, kind: str, quantity: str) -> np.ndarray:
        """Of each seed."""
        return np.array([part[kind][quantity] for part in self.arms[arm]])

    def gaps(self, dimension: int) -> np.ndarray:
        """Of each seed, the distance of the last losses from the bound, relative to the bound."""
        return np.array([1 - part["last"] / part["bound"] for part in self.sweep[dimension]])


def all_claims(results: Results) -> list[dict[str, Any]]:
    """Judge every claim."""
    return [
        loss_falls(results),
        few_labels(results, RANDOM),
        few_labels(results, PIXELS),
        manifolds(results, "views", "views of an image"),
        manifolds(results, "classes", "images of a class"),
        widest_gap(results),
    ]


def loss_falls(results: Results) -> dict[str, Any]:
    """The bound."""
    verdicts, measured = [], []
    for num_views in results.views:
        runs = [part["losses"] for part in results.arms[mmcr_arm(num_views)]]
        first, last = (np.mean([run[name] for run in runs]) for name in ("first", "last"))
        verdicts += [run["last"] < run["first"] for run in runs]
        verdicts += [run["lowest"] >= run["bound"] * (1 + ROUNDING) for run in runs]
        measured.append(f"{num_views} views {first:.1f} to {last:.1f}")
    bound = results.arms[mmcr_arm(results.views[0])][0]["losses"]["bound"]
    return claim(
        "the loss falls in every run and never passes the bound",
        "-||C||_* >= -sqrt(B min(B, D))",
        f"{'; '.join(measured)}; bound {bound:.1f}",
        [bool(verdict) for verdict in verdicts],
        {False: "a run does not fall, or passes the bound"},
    )


def few_labels(results: Results, other: str) -> dict[str, Any]:
    """The worth of the features."""
    few = str(min(results.labels))
    gains = {
        num_views: mean_interval(results.accuracy(mmcr_arm(num_views), few) - results.accuracy(other, few))
        for num_views in results.views
    }
    told_gains = "; ".join(f"{num_views} views {points(gain)}" for num_views, gain in gains.items())
    return claim(
        f"a linear probe with {few} labels is at least {100 * MARGIN:.0f} points better than on {other}",
        "ImageNet, ResNet-50, 1% of the labels: 49.4 (4 views, as told by CLAMP, NeurIPS 2025)",
        f"{told_gains} points; {other} {100 * results.accuracy(other, few).mean():.1f}%",
        [above(gain, MARGIN) for gain in gains.values()],
        {None: "an interval contains the margin", False: "better by less than that, or not at all"},
    )


def manifolds(results: Results, kind: str, what: str) -> dict[str, Any]:
    """Geometry."""
    verdicts, measured = [], []
    for num_views in results.views:
        told_of_views = []
        for quantity, sign in (("capacity", 1), ("radius", -1), ("dimension", -1)):
            ours, theirs = (results.geometry(arm, kind, quantity) for arm in (mmcr_arm(num_views), RANDOM))
            verdicts.append(sign_verdict(mean_interval(sign * (ours - theirs))))
            told_of_views.append(f"{quantity} {ours.mean():.2f} against {theirs.mean():.2f}")
        measured.append(f"{num_views} views: {', '.join(told_of_views)}")
    return claim(
        f"manifolds of {what} have a larger capacity, a smaller radius and a smaller dimension than in a random encoder",
        "compact manifolds of higher capacity",
        "; ".join(measured),
        verdicts,
        {None: "an interval contains zero", False: "one of these changes the other way"},
    )


def widest_gap(results: Results) -> dict[str, Any]:
    """Points and dimensions."""
    same = results.batch_size
    gaps = {dimension: results.gaps(dimension) for dimension in results.sweep}
    verdicts = [sign_verdict(mean_interval(gaps[same] - gap)) for dimension, gap in gaps.items() if dimension != same]
    measured = ", ".join(f"{dimension}: {gap.mean():.3f}" for dimension, gap in gaps.items())
    return claim(
        f"the distance from the bound, relative to it, is largest where the dimension is the batch size, {same}",
        "Schaeffer et al. 2024 (arXiv 2406.09366): the loss is not monotone in points and dimensions; peaks where they agree",
        f"by dimension {measured}",
        verdicts,
        {None: "an interval contains zero", False: "another dimension is further from its bound"},
    )


def above(interval: Interval, margin: float) -> bool | None:
    """True if the interval lies above ``margin``, False if below, None if it contains it."""
    return sign_verdict(Interval(*(value - margin for value in interval)))


def points(interval: Interval) -> str:
    """A difference of accuracies in percentage points."""
    return told(Interval(*(100 * value for value in interval)))
