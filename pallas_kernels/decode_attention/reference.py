"""Decode attention in plain NumPy, float64: a loop over rows, new tokens and heads."""

import numpy as np


def decode_attention(q, k, v, lengths, visible, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.decode_attention`; all arguments are needed here."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    batch, tokens, heads = q.shape[:3]
    o, lse = np.zeros(q.shape), np.full((batch, tokens, heads), -np.inf)
    for row in range(batch):
        for token in range(tokens):
            slots = [*range(lengths[row]), *(lengths[row] + np.flatnonzero(visible[row, token]))]
            for head in range(heads):
                if slots:
                    kv_head = head // (heads // k.shape[2])
                    scores = scale * k[row, slots, kv_head] @ q[row, token, head]
                    lse[row, token, head] = np.logaddexp.reduce(scores)
                    o[row, token, head] = np.exp(scores - lse[row, token, head]) @ v[row, slots, kv_head]
    return o, lse
