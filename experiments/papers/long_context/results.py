"""What was measured, and how it is looked up."""

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.papers.long_context.swept_rules import DENSE
from jaxdec.evaluation.attention_costs import ModelShape
from jaxdec.evaluation.long_context.token_tasks import TASKS
from jaxdec.evaluation.sparse_laws import Cell, ScalingLaw, fit_scaling_law, largest_safe_compression


@dataclasses.dataclass(frozen=True)
class Results:
    """All parts of the replica.

    Attributes:
      shapes: of the small models, smallest first.
      params: of each, its parameters.
      sweeps: of each, the entries of :func:`experiments.papers.long_context.sweep.sweep`.
      recall: entries of :func:`experiments.papers.long_context.recall.recall_part`.
      chance: score of guessing, by task.
      seed: of the bootstrap.
    """

    shapes: Sequence[ModelShape]
    params: Sequence[int]
    sweeps: Sequence[Sequence[Mapping[str, Any]]]
    recall: Sequence[Mapping[str, Any]]
    chance: Mapping[str, float]
    seed: int

    @property
    def lengths(self) -> list[int]:
        """Of prompts, rising."""
        return sorted({one["length"] for one in self.sweeps[0]})

    @property
    def nominal(self) -> list[float]:
        """Compressions that were asked for, rising."""
        return sorted({one["nominal"] for one in self.sweeps[0] if one["method"] != DENSE})

    def entries(self, model: int, phase: str, *, asked: bool = True, **equal: Any) -> list[Mapping[str, Any]]:
        """Entries of a model whose fields are those given."""
        equal = {"phase": phase, "asked": asked, **equal}
        return [one for one in self.sweeps[model] if all(one[name] == value for name, value in equal.items())]

    def entry(self, model: int, phase: str, task: str, length: int, method: str, nominal: float, *, asked: bool = True):
        """The one entry of a cell; dense at compression 1."""
        return self._cells[model, phase, asked, task, length, method if nominal > 1 else DENSE, nominal]

    @functools.cached_property
    def _cells(self) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        names = ("phase", "asked", "task", "length", "method", "nominal")
        found = {
            (model, *(one[name] for name in names)): one for model, swept in enumerate(self.sweeps) for one in swept
        }
        assert len(found) == sum(map(len, self.sweeps)), "a cell was measured twice"
        return found

    def accuracy(
        self, model: int, phase: str, task: str, length: int, method: str, nominal: float, *, asked: bool = True
    ):
        """Mean score of a cell."""
        return statistics.fmean(self.entry(model, phase, task, length, method, nominal, asked=asked)["scores"])

    def mean_accuracy(self, phase: str, method: str) -> float:
        """Over models, lengths, tasks and compressions: what is left of dense, in points of accuracy."""
        return statistics.fmean(
            self.accuracy(model, phase, task, length, method, nominal)
            for model in range(len(self.params))
            for task in TASKS
            for length in self.lengths
            for nominal in self.nominal
        )

    def mean_compression(self, phase: str, method: str) -> float:
        """Harmonic mean of the compressions that were measured: that of the work as a whole."""
        found = [
            one["compression"] for model in range(len(self.params)) for one in self.entries(model, phase, method=method)
        ]
        return statistics.harmonic_mean(found)

    def safe(self, model: int, phase: str, task: str, length: int, method: str) -> float:
        """Largest safe compression, as it was measured."""
        dense = self.entry(model, phase, task, length, method, 1.0)["scores"]
        found = [self.entry(model, phase, task, length, method, nominal) for nominal in self.nominal]
        sparse = {max(one["compression"], 1.0): one["scores"] for one in found}
        return largest_safe_compression(dense, sparse, seed=self.seed)

    def cells(self, phase: str, method: str) -> list[Cell]:
        """All cells of a method, dense ones among them, for the law."""
        found = []
        for model, params in enumerate(self.params):
            for task in TASKS:
                for length in self.lengths:
                    for nominal in (1.0, *self.nominal):
                        one = self.entry(model, phase, task, length, method, nominal)
                        accuracy = statistics.fmean(one["scores"])
                        compression = max(one["compression"], 1.0)
                        found.append(Cell(task, params, length, compression, accuracy, len(one["scores"])))
        return found

    def law(self, phase: str, method: str) -> ScalingLaw:
        """Fitted to a method's cells."""
        return fit_scaling_law(self.cells(phase, method), reference=TASKS[0])

    def recalled(self, method: str, length: int, nominal: float, value: str = "recall") -> float:
        """Mean over layers."""
        return statistics.fmean(
            one[value]
            for one in self.recall
            if (one["method"], one["length"], one["nominal"]) == (method, length, nominal)
        )

    def recall_lengths(self, phase: str) -> list[int]:
        """Lengths of the texts of a phase, rising."""
        return sorted({one["length"] for one in self.recall if one["phase"] == phase})

    @property
    def recall_nominal(self) -> list[float]:
        """Compressions above 1, rising."""
        return sorted({one["nominal"] for one in self.recall} - {1.0})
