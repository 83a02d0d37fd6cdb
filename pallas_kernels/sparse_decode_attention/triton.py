"""Sparse decode attention on Ampere and newer: :mod:`pallas_kernels.listed_attention.triton`, in place."""

import jax

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.listed_attention.triton import Steps, attend_lists, check_supported
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
    check_supported(q)
    tokens, num_heads = q.shape[1:3]
    num_kv_heads, capacity = k.shape[1:3]
    choosers, most = page_index.shape[1], page_index.shape[3]
    rows = num_heads // choosers

    def kernel(floats, integers):
        lengths, page_index, num_pages = integers
        ranges = attend_lists(
            *floats,
            page_index,
            num_pages,
            lengths,
            queries=Steps(tokens * num_heads, rows, num_heads, 1),
            keys=Steps(num_kv_heads * capacity, capacity, 0, 1),
            sharing=choosers // num_kv_heads,
            rows=rows,
            block=page_size,
            splits=-(-most * page_size // KEYS_OF_A_RANGE),
            scale=scale,
        )
        return merge(list(zip(*ranges)))

    def plain(floats, integers):
        return xla.sparse_decode_attention(*floats, *integers, page_size, scale)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths, page_index, num_pages))
