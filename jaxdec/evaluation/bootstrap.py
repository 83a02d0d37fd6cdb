"""How far a mean over test items can be trusted: the bootstrap.

Efron 1979; for comparisons of two systems on the same items, Koehn 2004 ("Statistical significance tests for machine
translation evaluation"): give it the differences item by item.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWN_AT_ONCE = 1 << 20
"""Items that are drawn in one piece, which bounds the memory; the draws are the same in pieces of any size."""


class Interval(NamedTuple):
    """A mean and its percentile interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    samples: Sequence[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean.

    Args:
      samples: one number per item, all finite.
      confidence: share of resampled means inside the interval, in (0, 1).
      resamples: how often the items are drawn again, with replacement.
      seed: of these draws.

    Raises:
      ValueError: no samples, one that is not finite, or another argument out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    values = np.asarray(samples, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"samples must be a list of at least one number, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"samples holds {values[~np.isfinite(values)][0]}: all must be finite")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, values.size, (rows, values.size))].mean(axis=1)
            for rows in _pieces(resamples, max(1, DRAWN_AT_ONCE // values.size))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def _pieces(total: int, most: int) -> list[int]:
    """Numbers of at most ``most`` that sum to ``total``."""
    return [min(most, total - start) for start in range(0, total, most)]
