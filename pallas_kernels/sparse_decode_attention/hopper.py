"""Sparse decode attention on Hopper: a tile per token and list through :mod:`pallas_kernels.listed_attention.hopper`.

The rows of a tile are the query heads with one list, of 64 that are multiplied. The cache is read where it is.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.listed_attention.hopper import attend_lists, check_lists
from pallas_kernels.merge.xla import merge
from pallas_kernels.sparse_decode_attention import xla

KEYS_OF_A_RANGE = 512
"""Longer lists are cut, so that few rows are work for more multiprocessors than there are lists. Never chosen by the batch."""


def sparse_decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    page_index: jax.Array,
    num_pages: jax.Array,
    page_size: int,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.sparse_decode_attention`. The gradient is that of the XLA backend."""
    batch, tokens, num_heads, width = q.shape
    num_kv_heads = k.shape[1]
    _, choosers, _, most = page_index.shape
    rows = num_heads // choosers
    check_lists(q, rows, page_size)

    def kernel(floats, integers):
        q, k, v = floats
        lengths, page_index, num_pages = integers
        lists = jnp.arange(batch * choosers * tokens, dtype=jnp.int32)
        o, lse = attend_lists(
            q.reshape(batch, tokens, choosers, rows, width).swapaxes(1, 2).reshape(-1, rows, width),
            *(side.reshape(-1, side.shape[2], 1, width) for side in (k, v)),
            page_index.reshape(-1, most),
            num_pages.reshape(-1),
            lists // tokens // (choosers // num_kv_heads),
            jnp.zeros_like(lists),
            lengths[lists // (choosers * tokens)],
            block=page_size,
            splits=-(-most * page_size // KEYS_OF_A_RANGE),
            scale=scale,
        )
        o, lse = merge([(o[:, part], lse[:, part]) for part in range(o.shape[1])])
        o = o.reshape(batch, choosers, tokens, rows, width).swapaxes(1, 2)
        return o.reshape(q.shape), lse.reshape(batch, choosers, tokens, rows).swapaxes(1, 2).reshape(q.shape[:3])

    def plain(floats, integers):
        return xla.sparse_decode_attention(*floats, *integers, page_size, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, page_index, num_pages))
