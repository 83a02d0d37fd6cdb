"""Accuracy at equal cost: small and dense against large and sparse."""

import dataclasses
import statistics
from typing import Any

from experiments.papers.long_context.results import Results
from experiments.papers.long_context.swept_rules import SCORED
from jaxdec.evaluation.attention_costs import QWEN25, ModelShape, attention_flops, other_flops, prefill_flops
from jaxdec.evaluation.long_context.token_tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Point:
    """A model at a compression on prompts of a length.

    Attributes:
      model: its number, smallest first.
      length: of the prompts.
      compression: that was asked for; 1 is dense.
      flops: of a prefill, selecting included.
      accuracy: mean over tasks.
    """

    model: int
    length: int
    compression: float
    flops: float
    accuracy: float


def points(results: Results, method: str = "vertical_slash") -> list[Point]:
    """Every model, length and compression under a rule of the prompt."""
    found = []
    for model, shape in enumerate(results.shapes):
        for length in results.lengths:
            for nominal in (1.0, *results.nominal):
                cells = [results.entry(model, "prefill", task, length, method, nominal) for task in TASKS]
                compression = max(1.0, statistics.harmonic_mean([one["compression"] for one in cells]))
                selecting = 0 if nominal == 1 else 2 * SCORED * length * shape.head_dim * shape.num_heads
                flops = prefill_flops(shape, length, 1 - 1 / compression, selecting=selecting)
                accuracy = statistics.fmean(statistics.fmean(one["scores"]) for one in cells)
                found.append(Point(model, length, nominal, float(flops), accuracy))
    return found


def sparse_wins(found: list[Point], length: int) -> list[Point]:
    """Sparse points of larger models that cost no more than a smaller dense one and are at least as accurate."""
    here = [point for point in found if point.length == length]
    dense = [point for point in here if point.compression == 1]

    def beats(point: Point) -> bool:
        rivals = [small for small in dense if small.model < point.model and small.flops >= point.flops]
        return any(small.accuracy <= point.accuracy for small in rivals)

    return [point for point in here if point.compression > 1 and beats(point)]


def needed_compression(large: ModelShape, small: ModelShape, length: int, convention: Any = "causal") -> float | None:
    """Compression of a large model's attention that makes its prefill cost a small dense one's; None if none does."""
    room = prefill_flops(small, length, convention=convention) - other_flops(large, length)
    return attention_flops(large, length, convention=convention) / room if room > 0 else None


def crossover(large: str, small: str, compression: float, convention: Any = "causal") -> int | None:
    """The shortest length, in steps of 4K to 1M, at which a large Qwen2.5 at a compression costs no more than a small one."""
    for length in range(1 << 12, (1 << 20) + 1, 1 << 12):
        needed = needed_compression(QWEN25[large], QWEN25[small], length, convention)
        if needed is not None and needed <= compression:
            return length
    return None
