"""Does an adaptive table get better from prompt to prompt? ADED over the prompts of one domain after another.

Three arms, each with trees of a fixed size: the static table; the same with an adaptive one that is handed on from each prompt
to the next; and the adaptive one alone, which begins with nothing. The static table is made of outputs to the prompts of the
families, none of which is in a domain. Every domain begins afresh. What is counted is tokens per call; nothing is timed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation.decoding import decode_timed
from jaxdec.decoding import Prompt
from jaxdec.decoding.methods import build_method
from jaxdec.decoding.speculative import Aded
from jaxdec.decoding.speculative.trigram_table import TrigramTable
from jaxdec.evaluation.bootstrap import mean_interval
from jaxdec.language_model import LanguageModel

NODES = 15
ADAPTATION_ARMS = ("static", "adaptive", "adaptive_cold")


def over_domain(
    arm: str, model: LanguageModel, table: TrigramTable, prompts: Mapping[str, Prompt]
) -> list[dict[str, Any]]:
    """Decode prompts in order, handing on what was learnt.

    Args:
      arm: one of :data:`ADAPTATION_ARMS`.
      model: the target.
      table: built beforehand; ``"adaptive_cold"`` does without.
      prompts: by id.

    Returns:
      ``id``, ``new_tokens`` and ``target_calls`` of every prompt.
    """
    options: dict[str, Any] = {"window": 0} if arm == "static" else {}
    method: Any = build_method("aded", tree_size=NODES, **options)
    drafter: Aded = method.drafter
    learnt = TrigramTable.empty(drafter.capacity, model.vocab_size)
    if arm != "adaptive_cold":
        model = model.accompanied(trigram_table=table)
    lines = []
    for name, prompt in prompts.items():
        measured, state = decode_timed(method, model.accompanied(adaptive_table=learnt), prompt)
        if arm != "static":
            learnt = drafter.learnt(state.drafter)
        lines.append({"id": name, **{field: measured[field] for field in ("new_tokens", "target_calls")}})
    return lines


@dataclasses.dataclass(frozen=True)
class Trend:
    """A straight line through tokens per call against the prompt's index, with the bootstrap interval of its slope."""

    slope: float
    low: float
    high: float


def trend(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> Trend | None:
    """Least-squares slope per prompt; None for fewer than three values. Prompts are drawn again with their indices."""
    count = len(values)
    if count < 3:
        return None
    index, y = np.arange(count), np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, count, count) for _ in range(resamples)]
    slopes = [np.polyfit(index[draw], y[draw], 1)[0] for draw in draws if np.ptp(draw)]
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Trend(float(np.polyfit(index, y, 1)[0]), float(low), float(high))


def summarise_adaptation(
    lines: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], seed: int = 0
) -> list[dict[str, Any]]:
    """One row per domain.

    Args:
      lines: what :func:`over_domain` returned, by domain and arm.
      seed: of the bootstrap.

    Returns:
      Per row the prompts' ``ids``; ``tokens_per_call`` by arm, prompt by prompt; ``mean`` by arm; the ``gap`` between adaptive
      and static with its interval, over the first and the second half of the prompts too; and the ``trend`` of that gap.
    """
    rows = []
    for domain, by_arm in lines.items():
        curves = {arm: [line["new_tokens"] / line["target_calls"] for line in by_arm[arm]] for arm in by_arm}
        gap = [a - b for a, b in zip(curves["adaptive"], curves["static"])]
        half = max(1, len(gap) // 2)
        slope = trend(gap, seed)
        row = {
            "domain": domain,
            "nodes": NODES,
            "ids": [line["id"] for line in by_arm["static"]],
            "tokens_per_call": curves,
            "mean": {arm: sum(curve) / len(curve) for arm, curve in curves.items()},
            "gap": mean_interval(gap, seed=seed)._asdict(),
            "gap_first_half": sum(gap[:half]) / half,
            "gap_second_half": sum(gap[-half:]) / half,
            "trend": None if slope is None else dataclasses.asdict(slope),
        }
        rows.append(row)
    return rows
