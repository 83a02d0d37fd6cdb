"""Sparse decode attention in jax: one list after the other, each gathered and multiplied as plain matrices."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.listed_attention.xla import attend_list
from pallas_kernels.tiled_attention.xla import over_tiles


@functools.partial(jax.jit, static_argnames=("page_size", "scale"))
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
    """See :func:`pallas_kernels.sparse_decode_attention`."""
    batch, tokens, _, width = q.shape
    num_kv_heads, capacity = k.shape[1:3]
    choosers = page_index.shape[1]
    pages = capacity // page_size
    grouped = q.reshape(batch, tokens, choosers, -1, width)
    k, v = (side.reshape(-1, page_size, width) for side in (k, v))

    def of_list(at):
        row, chooser, token = at // (choosers * tokens), at // tokens % choosers, at % tokens
        head = row * num_kv_heads + chooser // (choosers // num_kv_heads)
        where = row, chooser, token
        queries = grouped[row, token, chooser]
        return attend_list(
            queries, k, v, page_index[where], num_pages[where], lengths[row], scale=scale, offset=head * pages
        )

    o, lse = over_tiles(of_list, jnp.arange(batch * choosers * tokens))
    o = o.reshape(batch, choosers, tokens, -1, width).transpose(0, 2, 1, 3, 4)
    lse = lse.reshape(batch, choosers, tokens, -1).transpose(0, 2, 1, 3)
    return o.reshape(q.shape), lse.reshape(q.shape[:3])
