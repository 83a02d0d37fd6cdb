"""The nearest key in plain NumPy, float64: all distances, then the least of them."""

import numpy as np


def nearest_key(queries, keys, used=None) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.nearest_key`; ``(-1, inf)`` where no key of a codebook is in use."""
    queries, keys = (np.asarray(array).astype(np.float64) for array in (queries, keys))
    used = np.ones(keys.shape[:2], bool) if used is None else np.asarray(used)
    distances = np.square(queries[:, :, None] - keys[:, None]).sum(-1)
    distances = np.where(used[:, None], distances, np.inf)
    none = ~np.any(used, axis=1, keepdims=True)
    return np.where(none, -1, distances.argmin(-1)), distances.min(-1)
