"""Block-sparse attention on Ampere and newer: :mod:`pallas_kernels.listed_attention.triton`, in place."""

import jax

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.block_sparse_attention import xla
from pallas_kernels.listed_attention.triton import Steps, attend_lists, check_supported


def block_sparse_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    block_index: jax.Array,
    num_blocks: jax.Array,
    block_q: int,
    block_k: int,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.block_sparse_attention`. The gradient is that of the XLA backend."""
    check_supported(q)
    tokens, num_heads = q.shape[1:3]
    capacity, num_kv_heads = k.shape[1:3]

    def kernel(floats, integers):
        lengths, block_index, num_blocks = integers
        o, lse = attend_lists(
            *floats,
            block_index,
            num_blocks,
            lengths,
            queries=Steps(tokens * num_heads, 1, block_q * num_heads, num_heads),
            keys=Steps(capacity * num_kv_heads, 1, 0, num_kv_heads),
            sharing=num_heads // num_kv_heads,
            rows=block_q,
            block=block_k,
            tokens=tokens,
            scale=scale,
        )
        return o[0], lse[0]

    def plain(floats, integers):
        return xla.block_sparse_attention(*floats, *integers, block_q, block_k, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, block_index, num_blocks))
