"""Everything that was measured, in one place, and the quantities that claims and tables are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.speculative.arms import PLAIN, Arm, counts_of
from experiments.papers.speculative.timing import speed_ups
from jaxdec.evaluation.acceptance import predicted_speedup


@dataclasses.dataclass(frozen=True)
class Results:
    """What the parts hold.

    Attributes:
      laws: see :func:`experiments.papers.speculative.markov.law_results`.
      formula: see :func:`experiments.papers.speculative.markov.formula_results`.
      curve: see :func:`experiments.papers.speculative.timing.cost_curves`.
      families: of each prompt.
      texts: by arm and prompt, see :func:`experiments.papers.speculative.arms.decode_counted`.
      differences: by arm, see :func:`experiments.papers.speculative.arms.differences`.
      chains: by draft model, see :func:`experiments.papers.speculative.chains.chain_results`.
      overlaps: by draft model and temperature, see :func:`experiments.papers.speculative.chains.overlap_results`.
      temperatures: by arm, temperature and prompt, tokens per call.
      timing: see :func:`experiments.papers.speculative.timing.time_arms`.
      timed_arms: the arms timed, plain decoding first.
      timed_places: the prompts timed, as numbers into ``families``.
      timed_texts: their counters when decoded one by one, by arm.
      teaching: tokens that the draft model learned from, and what it was worth.
    """

    laws: Mapping[str, Any]
    formula: Sequence[Mapping[str, float]]
    curve: Mapping[str, Any]
    families: Sequence[str]
    texts: Mapping[str, Sequence[Mapping[str, Any]]]
    differences: Mapping[str, Sequence[Mapping[str, Any]]]
    chains: Mapping[str, Sequence[Mapping[str, Any]]]
    overlaps: Mapping[str, Mapping[str, Mapping[str, float]]]
    temperatures: Mapping[str, Mapping[str, Sequence[float]]]
    timing: Mapping[str, Any]
    timed_arms: Sequence[Arm]
    timed_places: Sequence[int]
    timed_texts: Mapping[str, Sequence[Mapping[str, Any]]]
    teaching: Mapping[str, Any]

    def places(self, families: Sequence[str] | None = None) -> list[int]:
        """Prompts of some families; all by default."""
        return [place for place, family in enumerate(self.families) if families is None or family in families]

    def tokens_per_call(self, arm: str, families: Sequence[str] | None = None) -> list[float]:
        """Prompt by prompt."""
        return [counts_of([self.texts[arm][place]]).tokens_per_call for place in self.places(families)]

    def mean_tokens_per_call(self, arm: str, families: Sequence[str] | None = None) -> float:
        """Mean over prompts."""
        return float(np.mean(self.tokens_per_call(arm, families)))

    def speed_up(self, arm: str, families: Sequence[str] | None = None) -> float:
        """Median over rounds; nan where no prompt of the families was timed."""
        chosen = self.timed(families)
        return float(np.median(speed_ups(self.timing, arm, chosen))) if chosen else float("nan")

    def timed(self, families: Sequence[str] | None) -> list[int]:
        """Timed prompts of some families, as numbers into :attr:`timed_places`."""
        return [
            at for at, place in enumerate(self.timed_places) if families is None or self.families[place] in families
        ]

    def timed_tokens_per_call(self, arm: str, families: Sequence[str] | None = None) -> float:
        """Of the timed prompts together; nan where there is none."""
        chosen = [self.timed_texts[arm][at] for at in self.timed(families)]
        return counts_of(chosen).tokens_per_call if chosen else float("nan")

    def step_cost(self, arm: Arm) -> float:
        """``v``, a pass over root and tree in plain steps."""
        return self.curve["costs"][""][str(arm.num_nodes + 1)]

    def drafting_cost(self, arm: Arm) -> float:
        """``c``, the passes of the draft model in plain steps; 0 for drafters without one."""
        return sum((self.curve["costs"][arm.draft][str(count)] for count in arm.drafting_passes), 0.0)

    def predicted(self, arm: Arm) -> float:
        """``E / (v + c)`` with the tokens per step of the timed prompts, prefills left out as they are in the times."""
        counts = counts_of(self.timed_texts[arm.name])
        texts = len(self.timed_texts[arm.name])
        steps = counts.target_calls - texts
        return predicted_speedup(
            (counts.new_tokens - texts) / max(steps, 1), self.step_cost(arm), self.drafting_cost(arm)
        )

    def fixed_arms(self) -> list[Arm]:
        """Timed arms whose steps all have one size: those that the speed can be predicted of."""
        return [arm for arm in self.timed_arms if arm.name != PLAIN and arm.sizes is None]
