"""Shared-prefix attention in plain NumPy, float64: a loop over groups, rows and heads."""

import numpy as np


def prefix_attention(q, k, v, kv_lengths, query_offsets, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.prefix_attention`; all arguments are needed here."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    rows, heads, width = q.shape
    o, lse = np.zeros((rows, heads, width)), np.full((rows, heads), -np.inf)
    for group, length in enumerate(np.asarray(kv_lengths)):
        for row in range(query_offsets[group], query_offsets[group + 1]):
            for head in range(heads):
                if length:
                    kv_head = head // (heads // k.shape[2])
                    scores = scale * k[group, :length, kv_head] @ q[row, head]
                    lse[row, head] = np.logaddexp.reduce(scores)
                    o[row, head] = np.exp(scores - lse[row, head]) @ v[group, :length, kv_head]
    return o, lse
