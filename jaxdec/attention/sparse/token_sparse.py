"""Attention among some tokens of a prompt alone: of the chosen ones, each reads those that come before it, and itself.

What ZipVL (He et al. 2024, arXiv 2410.08584, algorithm 1) computes for a prompt: with ``T`` the important tokens, in order,

    O[T] = softmax(Q[T] K[T]^T / sqrt(E), causal) V[T]        O[j] = 0 for all other j

so that a layer without a bias passes the other tokens on unchanged but for its feed-forward block. ``p`` of ``n`` tokens cost
``p (p + 1) / 2`` products of a query and a key. Chosen tokens are moved together and read in tiles, as many as there are: the
number is data, and no shape depends on it.
"""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Bool, Float
from pallas_kernels.arguments import check_qkv
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles

TILE = 128


def attention_among(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    chosen: Bool[Array, "B S"],
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """Causal attention among the chosen tokens of each prompt, and its log-sum-exp; ``(0, -inf)`` for all others.

    Scores, softmax and results are float32 at least. It has no gradient.

    Args:
      q: queries, ``T == S``.
      k: keys. Those of tokens that are not chosen are not read and may be NaN.
      v: values.
      chosen: tokens that read and are read.

    Raises:
      TypeError: types that are not floats or not the same.
      ValueError: shapes that do not fit.
    """
    check_qkv(q, k, v)
    batch, num_tokens, num_heads, width = q.shape
    num_kv_heads = k.shape[2]
    if k.shape[1] != num_tokens:
        raise ValueError(f"k must be of the {num_tokens} tokens of q; got {k.shape[1]}")
    group = num_heads // num_kv_heads
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else q.dtype  # two-byte products are slow on processors
    tile = min(TILE, num_tokens)
    padded = -(-num_tokens // tile) * tile
    order = jnp.argsort(~chosen, axis=1, stable=True)  # chosen tokens first, in their order
    rank = jnp.argsort(order, axis=1)
    count = chosen.sum(axis=1)
    member = jnp.arange(tile)

    def of_head(index):
        row, head = index // num_kv_heads, index % num_kv_heads
        used = (jnp.arange(padded) < count[row])[:, None]
        at = jnp.pad(order[row], (0, padded - num_tokens))
        keys, values = (jnp.where(used, side[row, at, head], 0).astype(product_type) for side in (k, v))
        queries = jnp.where(used[..., None], q[row][at][:, head * group + jnp.arange(group)], 0).astype(product_type)

        def of_tile(number, result):
            first = number * tile
            rows = jax.lax.dynamic_slice_in_dim(queries, first, tile).reshape(tile * group, width)
            position = jnp.repeat(first + member, group)[:, None]

            def read(step, state: SoftmaxState) -> SoftmaxState:
                cut = [jax.lax.dynamic_slice_in_dim(side, step * tile, tile) for side in (keys, values)]
                scores = jnp.dot(rows, cut[0].T, preferred_element_type=dtype, precision=precision_of(product_type))
                causal = step * tile + member <= position
                return fold(state, jnp.where(causal, scores * width**-0.5, -jnp.inf), cut[1])

            part = finish(jax.lax.fori_loop(0, number + 1, read, empty(tile * group, width, dtype)))
            return tuple(
                jax.lax.dynamic_update_slice_in_dim(whole, new.reshape(tile, group, -1), first, axis=0)
                for whole, new in zip(result, part)
            )

        nothing = (jnp.zeros((padded, group, width), dtype), jnp.full((padded, group, 1), -jnp.inf, dtype))
        out, lse = jax.lax.fori_loop(0, (count[row] + tile - 1) // tile, of_tile, nothing)
        mine = chosen[row][:, None]
        return jnp.where(mine[..., None], out[rank[row]], 0), jnp.where(mine, lse[rank[row], :, 0], -jnp.inf)

    out, lse = over_tiles(of_head, jnp.arange(batch * num_kv_heads))
    out = out.reshape(batch, num_kv_heads, num_tokens, group, width).transpose(0, 2, 1, 3, 4)
    lse = lse.reshape(batch, num_kv_heads, num_tokens, group).transpose(0, 2, 1, 3)
    return out.reshape(q.shape), lse.reshape(q.shape[:3])
