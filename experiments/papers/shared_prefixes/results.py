"""What was measured, and the numbers that tables, figures and verdicts take from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.shared_prefixes.timing import speed_ups
from pallas_kernels import kv_bytes_read


@dataclasses.dataclass(frozen=True)
class Results:
    """All parts.

    Attributes:
      layers: of the model.
      counts: bytes read by case, counted and by formula.
      attention: cases of :func:`timing.attention_part`.
      steps: cases of :func:`timing.step_part`.
      rates: by rows and prefix, what :func:`decoding.time_arms` found, and ``same``.
      needles: by seed.
      tree: what :func:`decoding.time_arms` found.
    """

    layers: int
    counts: Sequence[Mapping[str, Any]]
    attention: Sequence[Mapping[str, Any]]
    steps: Sequence[Mapping[str, Any]]
    rates: Mapping[tuple[int, int], Mapping[str, Any]]
    needles: Sequence[Mapping[str, Any]]
    tree: Mapping[str, Any]

    @property
    def loads(self) -> dict[str, float | None]:
        """Largest foreign load of each part that was timed."""
        parts = {
            "attention": self.attention,
            "steps": self.steps,
            "whole texts": list(self.rates.values()),
            "tree": [self.tree],
        }
        known = {
            name: [entry["foreign_load"] for entry in entries if entry["foreign_load"] is not None]
            for name, entries in parts.items()
        }
        return {name: max(loads, default=None) for name, loads in known.items()}

    def attention_gain(self, batch: int, prefix: int, suffix: int) -> float:
        """Median speed-up of attention."""
        return median(speed_ups(self.case(self.attention, batch, prefix, suffix)))

    @staticmethod
    def case(cases: Sequence[Mapping[str, Any]], batch: int, prefix: int, suffix: int | None = None) -> Any:
        """The case of these sizes; the first suffix there is if none is given."""
        return next(
            case
            for case in cases
            if (case["batch"], case["prefix"]) == (batch, prefix) and suffix in (None, case["suffix"])
        )

    @property
    def suffix(self) -> int:
        """Own tokens of the grid of attention."""
        return self.attention[0]["suffix"]

    def axis(self, name: str, cases: Sequence[Mapping[str, Any]]) -> list[int]:
        """Values of ``batch``, ``prefix`` or ``suffix``, rising."""
        return sorted({case[name] for case in cases})

    @property
    def sweep(self) -> list[Mapping[str, Any]]:
        """Cases that differ in their suffix alone, shortest first."""
        last = self.attention[-1]
        cases = [case for case in self.attention if all(case[name] == last[name] for name in ("batch", "prefix"))]
        return sorted(cases, key=lambda case: case["suffix"])

    def tree_seconds(self, arm: str, part: str | None = None) -> float:
        """Median seconds of an arm of the tree: prefill, decode, or both."""
        own = self.tree["arms"][arm]
        both = [own[name] for name in (("prefill", "decode") if part is None else (part,))]
        return median([sum(times) for times in zip(*both)])

    def tree_ratio(self, ours: str, theirs: str) -> list[float]:
        """Time of one arm over that of another, round by round."""
        one, two = (self.tree["arms"][arm] for arm in (ours, theirs))
        pairs = zip(zip(one["prefill"], one["decode"]), zip(two["prefill"], two["decode"]), strict=True)
        return [sum(mine) / sum(other) for mine, other in pairs]


def median(values: Sequence[float]) -> float:
    """As a plain number."""
    return float(np.median(values))


def counted_case(
    case: tuple[int, int, int], sizes: tuple[int, int, int], counted: Mapping[str, float]
) -> dict[str, Any]:
    """A count beside what :func:`pallas_kernels.kv_bytes_read` says."""
    batch, prefix, suffix = case
    widths: Any = {"num_kv_heads": sizes[1], "head_dim": sizes[2], "dtype": "float32"}
    formula = {
        "copied": kv_bytes_read([(batch, prefix + suffix)], **widths),
        "shared": kv_bytes_read([(1, prefix), (batch, suffix)], **widths),
    }
    return {"batch": batch, "prefix": prefix, "suffix": suffix, "formula": formula, **counted}


def bound(case: Mapping[str, Any]) -> float:
    """``b (P + S) / (P + b S)``: what sharing can gain while reading keys and values is what takes the time."""
    batch, prefix, suffix = case["batch"], case["prefix"], case["suffix"]
    return batch * (prefix + suffix) / (prefix + batch * suffix)
