"""Block-sparse attention on TPU: a tile per head and block of queries through :mod:`pallas_kernels.listed_attention.tpu`.

A block of one head must lie in one piece to be copied alone, so the heads of keys and values are brought to the front first: a
copy of arrays that every block of queries reads from.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.block_sparse_attention import xla
from pallas_kernels.listed_attention.tpu import attend_lists, check_supported


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
    check_supported(q, block_q, block_k)
    batch, tokens, num_heads, width = q.shape
    num_kv_heads = k.shape[2]
    _, _, blocks, most = block_index.shape

    def kernel(floats, integers):
        lengths, block_index, num_blocks = integers

        def heads_first(array, multiple: int):
            array = jnp.pad(array.swapaxes(1, 2), ((0, 0), (0, 0), (0, -array.shape[1] % multiple), (0, 0)))
            return array.reshape(-1, *array.shape[2:])

        q, k, v = (heads_first(array, multiple) for array, multiple in zip(floats, (block_q, block_k, block_k)))
        tile = jnp.arange(batch * num_heads * blocks, dtype=jnp.int32)
        o, lse = attend_lists(
            q.reshape(-1, block_q, width),
            k,
            v,
            block_index.reshape(-1, most),
            num_blocks.reshape(-1),
            tile // blocks // (num_heads // num_kv_heads),
            lengths[tile // (num_heads * blocks)],
            tile % blocks * block_q,
            block=block_k,
            scale=scale,
        )
        o = o.reshape(batch, num_heads, blocks * block_q, width)[:, :, :tokens]
        return o.swapaxes(1, 2), lse.reshape(batch, num_heads, -1)[:, :, :tokens].swapaxes(1, 2)

    def plain(floats, integers):
        return xla.block_sparse_attention(*floats, *integers, block_q, block_k, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, block_index, num_blocks))
