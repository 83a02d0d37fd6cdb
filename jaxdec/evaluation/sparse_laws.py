"""How accuracy falls with sparsity: a scaling law, and the largest compression that costs no accuracy that one can tell.

Nawrot et al. 2025 (arXiv 2504.17768) fit accuracies over tasks, model sizes, lengths and compressions by

    logit(acc) = eps + delta_task + alpha ln N + beta ln S + gamma ln C

with ``N`` parameters, ``S`` tokens, ``C = 1 / (1 - sparsity)``, and ``delta = 0`` for a reference task. The form is ours: the
paper's table names the coefficients; with natural logarithms and raw ``N`` its values give believable accuracies. Accuracies of
exactly 0 and 1 have no logit: an accuracy of ``n`` samples is clipped to ``[1 / (2 n), 1 - 1 / (2 n)]``. Least squares does the
rest.

The largest safe compression of a task is the largest ``C`` such that it and all smaller ones are not significantly below dense:
a paired one-sided bootstrap over samples (Efron 1979; Koehn 2004). The paper does not say which test it takes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Cell(NamedTuple):
    """One measured accuracy.

    Attributes:
      task: its name.
      params: ``N``, parameters of the model.
      length: ``S``, tokens of the prompts.
      compression: ``C``, at least 1.
      accuracy: mean over samples, 0 to 1.
      samples: their number.
    """

    task: str
    params: float | int
    length: float | int
    compression: float | int
    accuracy: float | int
    samples: int


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """Coefficients of the law; see the module.

    Attributes:
      intercept: ``eps``.
      task: ``delta`` of each task, 0 for the reference.
      params: ``alpha``.
      length: ``beta``.
      compression: ``gamma``.
      r_squared: share of the variance of the logits that the law explains, of the cells it was fitted to.
    """

    intercept: float
    task: Mapping[str, float]
    params: float
    length: float
    compression: float
    r_squared: float

    def accuracy(self, task: str, params: float | int, length: float | int, compression: float | int) -> float:
        """What the law says.

        Raises:
          ValueError: a task that it was not fitted to.
        """
        if task not in self.task:
            raise ValueError(f"task must be one of {', '.join(self.task)}; got {task!r}")
        slopes = self.params * np.log(params) + self.length * np.log(length) + self.compression * np.log(compression)
        return float(1 / (1 + np.exp(-(self.intercept + self.task[task] + slopes))))


def logit(accuracy: float | int, samples: int) -> float:
    """``ln(a / (1 - a))`` of an accuracy that is clipped to ``[1 / (2 n), 1 - 1 / (2 n)]``.

    Raises:
      ValueError: an accuracy outside [0, 1], or no samples.
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    clipped = min(max(accuracy, 0.5 / samples), 1 - 0.5 / samples)
    return float(np.log(clipped / (1 - clipped)))


def fit_scaling_law(cells: Sequence[Cell], reference: str | None = None) -> ScalingLaw:
    """Fit the law by least squares on logits.

    Args:
      cells: that vary in ``params``, ``length``, ``compression``, and hold every task.
      reference: the task of ``delta = 0``; the first one's by default.

    Raises:
      ValueError: sizes or compressions out of range, a reference that is no task, or cells that do not determine the law.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    if not tasks:
        raise ValueError("cells is empty: give at least one")
    reference = tasks[0] if reference is None else reference
    if reference not in tasks:
        raise ValueError(f"reference must be one of {', '.join(tasks)}; got {reference!r}")
    for cell in cells:
        if cell.params <= 0 or cell.length <= 0:
            raise ValueError(f"params and length must be positive, got {cell.params} and {cell.length}")
        if not cell.compression >= 1:
            raise ValueError(f"compression must be at least 1, got {cell.compression}")
    others = [task for task in tasks if task != reference]
    rows = [
        [
            1.0,
            *(cell.task == task for task in others),
            np.log(cell.params),
            np.log(cell.length),
            np.log(cell.compression),
        ]
        for cell in cells
    ]
    design = np.array(rows, np.float64)
    target = np.array([logit(cell.accuracy, cell.samples) for cell in cells])
    centre = design.mean(axis=0)
    centre[: len(others) + 1] = 0  # logarithms far from 0 would make the intercept ill-conditioned
    found, _, rank, _ = np.linalg.lstsq(design - centre, target, rcond=None)
    if rank < design.shape[1]:
        raise ValueError(
            f"cells do not determine the law: {len(cells)} cells of rank {rank} for {design.shape[1]} coefficients; "
            "params, length and compression must all vary"
        )
    residual = target - (design - centre) @ found
    spread = float(((target - target.mean()) ** 2).sum())
    task = {name: 0.0 if name == reference else float(found[1 + others.index(name)]) for name in tasks}
    return ScalingLaw(
        intercept=float(found[0] - centre @ found),
        task=task,
        params=float(found[-3]),
        length=float(found[-2]),
        compression=float(found[-1]),
        r_squared=1 - float((residual**2).sum()) / spread if spread > 0 else 1.0,
    )


def below_p_value(
    dense: Sequence[float] | np.ndarray, sparse: Sequence[float] | np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> float:
    """One-sided paired bootstrap: how often, samples drawn again, ``sparse`` is on average not below ``dense``.

    A small value says that ``sparse`` is below. Two that score alike on every sample get 1.

    Args:
      dense: score of each sample.
      sparse: scores of the same samples.
      resamples: how often samples are drawn again, with replacement.
      seed: of these draws.

    Raises:
      ValueError: no samples, scores of other samples, or ``resamples`` below 1.
    """
    one, two = np.asarray(dense, np.float64), np.asarray(sparse, np.float64)
    if one.shape != two.shape or one.ndim != 1 or one.size == 0:
        raise ValueError(f"dense and sparse must be of the same samples, got shapes {one.shape} and {two.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    drawn = np.random.default_rng(seed).integers(0, one.size, (resamples, one.size))
    means = (two - one)[drawn].mean(axis=1)
    return float((1 + (means >= 0).sum()) / (1 + resamples))


def largest_safe_compression(
    dense: Sequence[float] | np.ndarray,
    sparse: Mapping[Any, Sequence[float] | np.ndarray],
    *,
    significance: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> float:
    """The largest compression up to which no compression is significantly below dense; 1 if the smallest one is.

    The level is shared by the compressions that are tested (Bonferroni): more of them do not find more losses by chance.

    Args:
      dense: score of each sample without sparsity.
      sparse: scores of the same samples by compression.
      significance: the level, in (0, 1), of all tests together.
      resamples: see :func:`below_p_value`.
      seed: see there.

    Raises:
      ValueError: a level or a compression out of range, no compression, or what :func:`below_p_value` refuses.
    """
    if not 0 < significance < 1:
        raise ValueError(f"significance must be in (0, 1), got {significance}")
    if not sparse:
        raise ValueError("sparse is empty: give at least one compression")
    if min(sparse) < 1:
        raise ValueError(f"sparse holds compression {min(sparse)}: all must be at least 1")
    safe = 1.0
    for compression in sorted(sparse):
        value = below_p_value(dense, sparse[compression], resamples=resamples, seed=seed)
        if value <= significance / len(sparse):
            break
        safe = float(compression)
    return safe
