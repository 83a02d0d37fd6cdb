"""What the parts gave, and the figures that claims and tables are made of.

*Tokens per call* are all new tokens over all forward passes, the prefill included, so that plain decoding has 1. Two arms are
compared prompt by prompt. *Predicted speed-up* leaves the prefill out, which both sides do alike: with ``s`` steps for the
``n - 1`` tokens behind the first, ``(n - 1) / s`` over the cost of a step, verification and drafting, in plain steps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdec.evaluation import Interval, mean_interval
from jaxdec.evaluation.acceptance import DraftCounts, pooled, predicted_speedup

Key = tuple[str, str]
"""Set and id of a prompt."""


@dataclasses.dataclass(frozen=True)
class Results:
    """All parts.

    Attributes:
      groups: ``(set, group)`` of each prompt.
      counts: by arm and prompt, from replays.
      carried: by arm (``"foreign"``, ``"cold"``) and domain, what each prompt counted at its index, in every order.
      decoded: of the real decode of all prompts by *adaptive own*.
      clock: times at batch 1.
      step_ms: milliseconds of a pass over ``n`` tokens.
      drafting_ms: milliseconds of a proposal, by arm.
      nodes: of each arm's trees.
      corpus: size of the foreign corpus.
    """

    groups: Mapping[Key, tuple[str, str]]
    counts: Mapping[str, Mapping[Key, DraftCounts]]
    carried: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    decoded: Sequence[Mapping[str, Any]]
    clock: Sequence[Mapping[str, Any]]
    step_ms: Mapping[int, float]
    drafting_ms: Mapping[str, float]
    nodes: Mapping[str, int]
    corpus: Mapping[str, int]

    def keys(self, which: str | None = None, group: str | None = None, arms: Sequence[str] = ()) -> list[Key]:
        """Prompts of a set, of a group, or all; those that all of ``arms`` were run on."""
        chosen = [k for k, (s, g) in self.groups.items() if which in (None, s) and group in (None, g)]
        return [k for k in chosen if all(k in self.counts[arm] for arm in arms)]

    def groups_of(self, which: str) -> list[str]:
        """Families, or domains, in their order."""
        return list(dict.fromkeys(group for own, group in self.groups.values() if own == which))

    def pooled(self, arm: str, keys: Sequence[Key]) -> DraftCounts:
        """Counts of several prompts together."""
        return pooled(self.counts[arm][key] for key in keys)

    def rate(self, arm: str, keys: Sequence[Key]) -> float:
        """Tokens per call of several prompts together."""
        return self.pooled(arm, keys).tokens_per_call

    def rates(self, arm: str, keys: Sequence[Key]) -> np.ndarray:
        """Tokens per call of each prompt."""
        return np.array([self.counts[arm][key].tokens_per_call for key in keys])

    def gain(self, ours: str, theirs: str, keys: Sequence[Key]) -> Interval:
        """Mean over prompts of the difference in tokens per call."""
        return mean_interval(self.rates(ours, keys) - self.rates(theirs, keys))

    def accepted_per_step(self, arm: str, keys: Sequence[Key]) -> float:
        """Guesses accepted per verification."""
        total = self.pooled(arm, keys)
        return sum(total.accepted) / max(1, total.target_calls - len(keys))

    def speedup(self, arm: str, keys: Sequence[Key], *, drafting: bool = True) -> float | None:
        """Predicted; None where a cost was not measured."""
        passes = self.step_ms.get(self.nodes[arm] + 1)
        draft = self.drafting_ms.get(arm, None if drafting else 0.0)
        total, one = self.pooled(arm, keys), self.step_ms[1]
        steps = total.target_calls - len(keys)  # one call of each prompt is the prefill
        if passes is None or draft is None or steps <= 0:
            return None
        return predicted_speedup((total.new_tokens - len(keys)) / steps, passes / one, draft / one if drafting else 0.0)

    def points(self, carried: str, domain: str, less: str | None) -> dict[str, list[tuple[int, float]]]:
        """By prompt: ``(index, tokens per call)``, less what another arm has on that prompt."""
        found: dict[str, list[tuple[int, float]]] = {}
        for entry in self.carried[carried][domain]:
            value = entry["new_tokens"] / entry["target_calls"]
            if less is not None:
                value -= self.counts[less][entry["set"], entry["id"]].tokens_per_call
            found.setdefault(entry["id"], []).append((entry["index"], value))
        return found

    def by_index(self, carried: str, domain: str, less: str | None) -> list[float]:
        """Mean over orders at each index."""
        by_index: dict[int, list[float]] = {}
        for own in self.points(carried, domain, less).values():
            for index, value in own:
                by_index.setdefault(index, []).append(value)
        return [float(np.mean(by_index[index])) for index in sorted(by_index)]

    def clock_ratios(self, arm: str) -> dict[str, float]:
        """Times as fast as greedy decoding, by group and for ``all``: medians of ratios inside a prompt and round."""
        plain = {(e["set"], e["id"], e["round"]): e["seconds"] for e in self.clock if e["arm"] == "greedy"}
        ratios: dict[str, list[float]] = {}
        for e in self.clock:
            if e["arm"] == arm:
                ratio = plain[e["set"], e["id"], e["round"]] / e["seconds"]
                for group in (f"{e['set']}: {e['group']}", "all"):
                    ratios.setdefault(group, []).append(ratio)
        return {group: float(np.median(values)) for group, values in ratios.items()}


def two_sample_interval(ours: np.ndarray, theirs: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Difference of the means of two samples of different items, with its bootstrap interval (95 %)."""
    rng = np.random.default_rng(seed)
    mine, other = (own[rng.integers(0, len(own), (resamples, len(own)))].mean(1) for own in (ours, theirs))
    drawn = mine - other
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(ours.mean() - theirs.mean()), float(low), float(high))


def draft_counts(entry: Mapping[str, Any]) -> DraftCounts:
    """From a part."""
    return DraftCounts(
        new_tokens=entry["new_tokens"],
        target_calls=entry["target_calls"],
        drafted=tuple(entry["drafted"]),
        accepted=tuple(entry["accepted"]),
        fed=entry["fed"],
    )
