"""Block-sparse attention in plain NumPy, float64: a loop over rows, heads and queries."""

import numpy as np


def block_sparse_attention(
    q, k, v, lengths, block_index, num_blocks, *, block_q: int, block_k: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`pallas_kernels.block_sparse_attention`; ``scale`` is needed here."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    batch, _, heads, _ = q.shape
    o, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    for row in range(batch):
        for head in range(heads):
            for token in range(lengths[row]):
                block = token // block_q
                listed = np.asarray(block_index)[row, head, block, : num_blocks[row, head, block]]
                slots = (listed[:, None] * block_k + np.arange(block_k)).ravel()
                slots = slots[slots <= token]
                if slots.size:
                    kv_head = head // (heads // k.shape[2])
                    scores = scale * k[row, slots, kv_head] @ q[row, token, head]
                    lse[row, token, head] = np.logaddexp.reduce(scores)
                    o[row, token, head] = np.exp(scores - lse[row, token, head]) @ v[row, slots, kv_head]
    return o, lse
