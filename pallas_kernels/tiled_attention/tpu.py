"""Tiles of query rows against the keys of their group, as a Mosaic TPU kernel.

    grid: tiles x ranges of the keys x blocks of a range

The last dimension runs in order: it keeps the running softmax of the tile in scratch memory and writes it out behind the last
block. Which group a tile reads, and how many of its keys are in use, are scalars fetched ahead, so the copy of the next block
starts while the current one is worked on. Blocks behind the last key in use are neither copied nor computed.

A block has all heads of its keys: ``[G, L, Hkv, D]`` lies in memory in tiles of its last two dimensions, and any other view of
it would be a copy of the whole.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of

ROW_MULTIPLE = 16  # sublanes of a two-byte type; twice those of float32
BLOCK_BYTES = 1 << 20  # of keys; as many of values, and twice that, since the next block is copied meanwhile
MOST_KEYS = 512


def check_supported(q: jax.Array):
    """Raise NotImplementedError for what the kernel does not do."""
    if q.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"takes float32 and bfloat16, got {q.dtype}")
    if q.shape[-1] not in (64, 128, 256):
        raise NotImplementedError(f"takes heads of width 64, 128 and 256, got {q.shape[-1]}")


@functools.partial(jax.jit, static_argnames=("num_splits", "scale"))
def attend_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group: jax.Array,
    length: jax.Array,
    pages: jax.Array | None = None,
    *,
    num_splits: int = 1,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each tile to each range of its group's keys.

    Args:
      q: ``[W, Hkv, N, D]``, ``N`` a multiple of ``ROW_MULTIPLE``.
      k: ``[G, L, Hkv, D]``.
      v: like ``k``.
      group: ``int32[W]``.
      length: ``int32[W]``, keys in use by each tile; 0 for a tile that is not used.
      pages: ``int32[W, M]``, the groups that the keys of each tile lie in one after another, all in range; ``group`` then says
        nothing.
      num_splits: ranges, at most; they are cut at whole blocks.
      scale: of the scores.

    Returns:
      ``o float32[W, M, Hkv, N, D]`` and ``lse float32[W, M, Hkv, N]`` for ``M`` ranges.
    """
    num_tiles, num_kv_heads, rows, width = q.shape
    fitting = BLOCK_BYTES // (num_kv_heads * max(width, 128) * k.dtype.itemsize)
    block = min(k.shape[1], MOST_KEYS, max(fitting // 128, 1) * 128)
    num_blocks = pl.cdiv(k.shape[1], block)
    if pages is not None:
        if block < k.shape[1] or block % ROW_MULTIPLE:
            most = min(MOST_KEYS, max(fitting // 128, 1) * 128)
            raise NotImplementedError(
                f"takes pages of a multiple of {ROW_MULTIPLE} slots, {most} at most here, got {k.shape[1]}"
            )
        num_blocks, group = pages.shape[1], pages.reshape(-1)  # a row of a table takes 128 scalars at least
    per_range = pl.cdiv(num_blocks, min(num_splits, num_blocks))
    num_ranges = pl.cdiv(num_blocks, per_range)

    def key_block(tile, part, index, group, length):
        last = jnp.maximum(pl.cdiv(length[tile], block) - 1, 0)
        block_of_tile = jnp.minimum(part * per_range + index, last)
        if pages is not None:
            return group[tile * num_blocks + block_of_tile], 0, 0, 0
        return group[tile], block_of_tile, 0, 0

    kv = pl.BlockSpec((1, block, num_kv_heads, width), key_block)
    kernel = functools.partial(_kernel, scale=scale, block=block, per_range=per_range)
    o, lse = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(num_tiles, num_ranges, per_range),
            in_specs=[pl.BlockSpec((1, num_kv_heads, rows, width), lambda tile, *_: (tile, 0, 0, 0)), kv, kv],
            out_specs=[
                pl.BlockSpec((1, 1, num_kv_heads, rows, size), lambda tile, part, *_: (tile, part, 0, 0, 0))
                for size in (width, 1)
            ],
            scratch_shapes=[pltpu.VMEM((num_kv_heads, rows, size), jnp.float32) for size in (1, 1, width)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((num_tiles, num_ranges, num_kv_heads, rows, size), jnp.float32) for size in (width, 1)
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="attend_tiles",
    )(group, length, q, k, v)
    return o, lse[..., 0]


def _kernel(group, length, q, k, v, o, lse, top, total, weighted, *, scale: float, block: int, per_range: int):
    """One block of keys against the heads of one tile."""
    del group  # the copies have used it
    tile, index = pl.program_id(0), pl.program_id(2)
    first = (pl.program_id(1) * per_range + index) * block
    state = (top, total, weighted)
    _, heads, rows, width = q.shape

    @pl.when(index == 0)
    def _():
        for head in range(heads):
            for ref, value in zip(state, empty(rows, width, jnp.float32)):
                ref[head] = value

    @pl.when(first < length[tile])
    def _():
        used = first + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1) < length[tile]
        in_use = first + jax.lax.broadcasted_iota(jnp.int32, (block, 1), 0) < length[tile]
        for head in range(heads):
            values = jnp.where(in_use, v[0, :, head], 0)  # 0 * NaN is NaN
            scores = scale * jax.lax.dot_general(
                q[0, head],
                k[0, :, head],
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
                precision=precision_of(q.dtype),
            )
            new = fold(SoftmaxState(*(ref[head] for ref in state)), jnp.where(used, scores, -jnp.inf), values)
            for ref, value in zip(state, new):
                ref[head] = value

    @pl.when(index == per_range - 1)
    def _():
        for head in range(heads):
            o[0, 0, head], lse[0, 0, head] = finish(SoftmaxState(*(ref[head] for ref in state)))
