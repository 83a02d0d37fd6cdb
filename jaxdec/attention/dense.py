"""Dense softmax attention over cache slots, with grouped query heads."""

import jax.numpy as jnp

from jaxdec.typing import Array, Bool, Float


def dense_attention(
    queries: Float[Array, "B T H E"],
    keys: Float[Array, "B G S E"],
    values: Float[Array, "B G S E"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T H E"]:
    """``softmax(q k^T / sqrt(E)) v`` over the allowed slots; head ``h`` reads key/value head ``h // (H / G)``.

    Scores and the softmax are computed in float32 at least. Slots that no query may read can hold anything, NaN included.
    Every query must be allowed at least one slot.
    """
    batch, num_new, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[1]
    accumulate = jnp.promote_types(queries.dtype, jnp.float32)
    grouped = queries.reshape(batch, num_new, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = jnp.einsum("btgre,bgse->bgrts", grouped * head_dim**-0.5, keys, preferred_element_type=accumulate)
    weights = jnp.where(mask[:, None, None], scores, -jnp.inf)
    weights = jnp.exp(weights - weights.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    readable = jnp.where(mask.any(1)[:, None, :, None], values, 0)  # 0 * NaN is NaN: a masked slot's value must go
    out = jnp.einsum("bgrts,bgse->btgre", weights.astype(values.dtype), readable, preferred_element_type=accumulate)
    return out.reshape(batch, num_new, num_heads, head_dim).astype(queries.dtype)
