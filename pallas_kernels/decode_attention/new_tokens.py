"""The part of decode attention that is masked: the new tokens among themselves.

It reads ``T`` slots per row out of thousands, so it is jax for every backend; the kernels have no mask but the length.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.tiled_attention.rows import fold_heads, unfold_heads
from pallas_kernels.tiled_attention.softmax_state import empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles


@functools.partial(jax.jit, static_argnames="scale")
def attend_new_tokens(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array, visible: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Attention of each new token to the new tokens it may see: ``o [B, T, Hq, D]``, ``lse [B, T, Hq]``."""
    tokens, num_heads, width = q.shape[1:]
    num_kv_heads = k.shape[2]
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else q.dtype

    def attend(row):
        q, k, v, length, visible = row
        folded = fold_heads(q, num_kv_heads).astype(product_type)
        new = [jax.lax.dynamic_slice_in_dim(array, length, tokens).astype(product_type) for array in (k, v)]
        allowed = jnp.repeat(visible, num_heads // num_kv_heads, axis=0)  # as the heads of a token are folded

        def attend_head(head):
            queries, keys, values = head
            scores = scale * jnp.dot(
                queries, keys.T, preferred_element_type=dtype, precision=precision_of(product_type)
            )
            state = fold(empty(len(allowed), width, dtype), jnp.where(allowed, scores, -jnp.inf), values)
            return finish(state)

        o, lse = over_tiles(attend_head, (folded, *(jnp.moveaxis(array, 1, 0) for array in new)))
        return unfold_heads(o, tokens), unfold_heads(lse, tokens)[..., 0]

    return over_tiles(attend, (q, k, v, lengths, visible))
