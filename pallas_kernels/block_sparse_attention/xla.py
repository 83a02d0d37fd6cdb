"""Block-sparse attention in jax: head by head, block of queries by block of queries."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.listed_attention.xla import attend_list
from pallas_kernels.tiled_attention.xla import over_tiles


@functools.partial(jax.jit, static_argnames=("block_q", "block_k", "scale"))
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
    """See :func:`pallas_kernels.block_sparse_attention`."""
    batch, tokens, num_heads, width = q.shape
    num_kv_heads = k.shape[2]
    group, blocks = num_heads // num_kv_heads, block_index.shape[2]
    firsts = block_q * jnp.arange(blocks)
    on_cpu = jax.default_backend() == "cpu"

    def in_blocks(array, size: int):
        array = jnp.pad(array, ((0, -array.shape[0] % size), (0, 0)))
        wide = jnp.promote_types(array.dtype, jnp.float32) if on_cpu else array.dtype
        return array.reshape(-1, size, width).astype(wide)

    def of_kv_head(at):
        row, kv_head = at // num_kv_heads, at % num_kv_heads
        keys, values = (in_blocks(side[row, :, kv_head], block_k) for side in (k, v))

        def of_head(member):
            head = kv_head * group + member
            tiles = (in_blocks(q[row, :, head], block_q), block_index[row, head], num_blocks[row, head], firsts)

            def of_tile(tile):
                queries, index, count, first = tile
                return attend_list(queries, keys, values, index, count, lengths[row], scale=scale, first=first)

            o, lse = over_tiles(of_tile, tiles)
            return o.reshape(-1, width)[:tokens], lse.reshape(-1)[:tokens]

        return over_tiles(of_head, jnp.arange(group))

    o, lse = over_tiles(of_kv_head, jnp.arange(batch * num_kv_heads))
    o = o.reshape(batch, num_heads, tokens, width).transpose(0, 2, 1, 3)
    return o, lse.reshape(batch, num_heads, tokens).transpose(0, 2, 1)
