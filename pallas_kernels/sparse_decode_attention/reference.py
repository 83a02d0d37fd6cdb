"""Sparse decode attention in plain NumPy, float64: a loop over rows, new tokens and heads."""

import numpy as np


def sparse_decode_attention(
    q, k, v, lengths, page_index, num_pages, *, page_size: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.sparse_decode_attention`; ``scale`` is needed here."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    batch, tokens, heads, _ = q.shape
    o, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    for row in range(batch):
        for token in range(tokens):
            for head in range(heads):
                at = row, head // (heads // np.shape(page_index)[1]), token
                pages = np.asarray(page_index)[at][: num_pages[at]]
                slots = (pages[:, None] * page_size + np.arange(page_size)).ravel()
                slots = slots[slots < lengths[row]]
                if slots.size:
                    kv_head = head // (heads // k.shape[1])
                    scores = scale * k[row, kv_head, slots] @ q[row, token, head]
                    lse[row, token, head] = np.logaddexp.reduce(scores)
                    o[row, token, head] = np.exp(scores - lse[row, token, head]) @ v[row, kv_head, slots]
    return o, lse
