"""Block-sparse attention on Hopper: a tile per head and block through :mod:`pallas_kernels.listed_attention.hopper`."""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.block_sparse_attention import xla
from pallas_kernels.listed_attention.hopper import attend_lists, check_lists


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
    check_lists(q, block_q, block_k)
    batch, tokens, num_heads, width = q.shape
    group = num_heads // k.shape[2]
    _, _, blocks, most = block_index.shape

    def kernel(floats, integers):
        q, k, v = floats
        lengths, block_index, num_blocks = integers
        tile = jnp.arange(batch * num_heads * blocks, dtype=jnp.int32)
        row = tile // (num_heads * blocks)
        o, lse = attend_lists(
            jnp.pad(q.swapaxes(1, 2), ((0, 0), (0, 0), (0, -tokens % block_q), (0, 0))).reshape(-1, block_q, width),
            k,
            v,
            block_index.reshape(-1, most),
            num_blocks.reshape(-1),
            row,
            tile // blocks % num_heads // group,
            lengths[row],
            tile % blocks * block_q,
            block=block_k,
            scale=scale,
        )
        o = o.reshape(batch, num_heads, blocks * block_q, width)[:, :, :tokens]
        return o.swapaxes(1, 2), lse.reshape(batch, num_heads, -1)[:, :, :tokens].swapaxes(1, 2)

    def plain(floats, integers):
        return xla.block_sparse_attention(*floats, *integers, block_q, block_k, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, block_index, num_blocks))
