"""The merge in plain NumPy, float64: weights from the log-sum-exp of all parts."""

from collections.abc import Sequence

import numpy as np


def merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """``lse = log sum_i e^lse_i`` and ``o = sum_i o_i e^(lse_i - lse)``; ``(0, -inf)`` where no part holds anything."""
    lses = np.stack([np.asarray(lse, np.float64) for _, lse in parts])
    lse = np.logaddexp.reduce(lses)
    o = np.zeros(np.shape(parts[0][0]))
    for (part, _), part_lse in zip(parts, lses):
        holds = part_lse > -np.inf
        weight = np.exp(np.where(holds, part_lse, 0) - np.where(holds, lse, 0)) * holds
        o += np.where(holds[..., None], np.asarray(part, np.float64), 0) * weight[..., None]
    return o, lse
