"""Decode attention in plain NumPy, float64: a loop over rows, new tokens and heads."""

import numpy as np


def decode_attention(q, k, v, lengths, visible, scale: float, page_table=None) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.decode_attention`; ``visible`` and ``scale`` are needed here."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    batch, tokens, heads = q.shape[:3]
    o, lse = np.zeros(q.shape), np.full((batch, tokens, heads), -np.inf)

    def read(array, row, slots, head):
        if page_table is None:
            return array[row, slots, head]
        page, place = np.divmod(slots, array.shape[1])
        return array[np.asarray(page_table)[row, page], place, head]

    for row in range(batch):
        for token in range(tokens):
            slots = [*range(lengths[row]), *(lengths[row] + np.flatnonzero(visible[row, token]))]
            for head in range(heads):
                if slots:
                    kv_head = head // (heads // k.shape[2])
                    scores = scale * read(k, row, slots, kv_head) @ q[row, token, head]
                    lse[row, token, head] = np.logaddexp.reduce(scores)
                    o[row, token, head] = np.exp(scores - lse[row, token, head]) @ read(v, row, slots, kv_head)
    return o, lse
