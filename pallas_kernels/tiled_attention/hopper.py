"""Tiles of query rows against the keys of their group, as a Mosaic GPU kernel for Hopper.

    grid: key/value heads x ranges of the keys x tiles

FlashAttention-3: Shah et al. 2024, arXiv 2407.08608: a warpgroup that only copies (TMA, several blocks ahead) and one or two
that compute (``wgmma``), each with 64 query rows of the tile. The tile is the fastest axis of the grid, so that blocks which
read the same keys run at the same time and find them in the L2 cache.

The weights of a block go to the second product through shared memory. FlashAttention-3 keeps them in registers; this way the
interpreter of jax 0.12, which knows no other, runs the program that the GPU runs.

The last block of a tile is masked. What lies in the values behind the last key in use may be NaN, and ``0 * NaN`` is NaN: the
first compute warpgroup overwrites those rows in shared memory before the block is multiplied.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS = 64  # of a warpgroup, as wgmma has it
MOST_ROWS = 2 * ROWS
SHARED_BYTES = 224 << 10  # of the 227 KB a block may have; the rest is for barriers and reductions
MOST_STAGES = 4
COMPUTE_REGISTERS, COPY_REGISTERS = 232, 40  # per lane, of two warpgroups that compute and one that copies
LOG2_E = math.log2(math.e)


def check_supported(q: jax.Array):
    """Raise NotImplementedError for what the kernel does not do."""
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"takes bfloat16 and float16, got {q.dtype}")
    if q.shape[-1] not in (64, 128):
        raise NotImplementedError(f"takes heads of width 64 and 128, got {q.shape[-1]}")


def block_of(width: int) -> int:
    """Keys that are copied and multiplied at a time."""
    return 128 if width == 64 else 64


@functools.partial(jax.jit, static_argnames=("num_splits", "scale"))
def attend_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    group: jax.Array,
    length: jax.Array,
    *,
    num_splits: int = 1,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each tile to each range of its group's keys.

    Args:
      q: ``[W, Hkv, N, D]``, ``N`` at most ``MOST_ROWS``.
      k: ``[G, L, Hkv, D]``. Copied to a longer array if ``L`` is no multiple of the block.
      v: like ``k``.
      group: ``int32[W]``.
      length: ``int32[W]``, keys in use by each tile; 0 for a tile that is not used.
      num_splits: ranges, at most; they are cut at whole blocks.
      scale: of the scores.

    Returns:
      ``o float32[W, M, Hkv, N, D]`` and ``lse float32[W, M, Hkv, N]`` for ``M`` ranges.
    """
    num_tiles, num_kv_heads, rows, width = q.shape
    block = block_of(width)
    k, v = (jnp.pad(array, ((0, 0), (0, -array.shape[1] % block), (0, 0), (0, 0))) for array in (k, v))
    num_blocks = k.shape[1] // block
    per_range = pl.cdiv(num_blocks, min(num_splits, num_blocks))
    num_ranges = pl.cdiv(num_blocks, per_range)
    warpgroups = pl.cdiv(rows, ROWS)  # that compute
    q = jnp.pad(q, ((0, 0), (0, 0), (0, warpgroups * ROWS - rows), (0, 0)))
    # Of a single warpgroup only the rows in use are written out, in whole tiles of shared memory.
    written = warpgroups * ROWS if warpgroups > 1 else 8 * pl.cdiv(rows, 8)
    size = jnp.dtype(q.dtype).itemsize
    fixed = warpgroups * ROWS * (size * (width + block) + 4 * width)  # queries, weights, output
    stages = min(MOST_STAGES, (SHARED_BYTES - fixed) // (2 * size * block * width))
    kernel = functools.partial(
        _kernel, block=block, per_range=per_range, stages=stages, warpgroups=warpgroups, scale=scale
    )
    o, lse = plgpu.kernel(
        kernel,
        out_type=[
            jax.ShapeDtypeStruct((num_tiles, num_ranges, num_kv_heads, written, width), jnp.float32),
            jax.ShapeDtypeStruct((num_tiles, num_ranges, num_kv_heads, warpgroups * ROWS), jnp.float32),
        ],
        grid=(num_kv_heads, num_ranges, num_tiles),
        grid_names=("head", "part", "tile"),
        num_threads=warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(q, k, v, group, length)
    return o[..., :rows, :], lse[..., :rows]


def tiles_of(dtype) -> tuple:
    """How a matrix lies in shared memory: in tiles as wide as the swizzle, which keeps warps off each other's banks."""
    return plgpu.TilingTransform((8, 128 // jnp.dtype(dtype).itemsize)), plgpu.SwizzleTransform(128)


def _kernel(q, k, v, group, length, o, lse, *, block: int, per_range: int, stages: int, warpgroups: int, scale: float):
    """One tile, one range, one head."""
    width = q.shape[-1]

    def matrices(*shape, dtype=q.dtype):
        return plgpu.SMEM(shape, dtype, transforms=tiles_of(dtype))

    def entry(shared, arrived, used):
        me = jax.lax.axis_index("warpgroup")
        tile, part = jax.lax.axis_index("tile"), jax.lax.axis_index("part")
        first = part * (per_range * block)
        keys = jnp.clip(length[tile] - first, 0, per_range * block)
        args = (keys, first, block, stages)

        @pl.when(me < warpgroups)
        def _():
            if warpgroups > 1:
                plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
            _compute(q, o, lse, shared, arrived, used, *args, scale=scale)

        @pl.when(me == warpgroups)
        def _():
            if warpgroups > 1:
                plgpu.set_max_registers(COPY_REGISTERS, action="decrease")
            _copy(k, v, group[tile], shared, arrived, used, *args)

    pl.run_scoped(
        entry,
        {
            "q": matrices(warpgroups, ROWS, width),
            "k": matrices(stages, block, width),
            "v": matrices(stages, block, width),
            "weights": matrices(warpgroups, ROWS, block),
            "o": matrices(warpgroups, ROWS, width, dtype=jnp.float32),
            "lse": plgpu.SMEM((warpgroups, ROWS), jnp.float32),
        },
        {
            "q": plgpu.Barrier(num_barriers=warpgroups),
            "k": plgpu.Barrier(num_barriers=stages),
            "v": plgpu.Barrier(num_barriers=stages),
            "clean": plgpu.Barrier(),
        },
        {
            "k": plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
            "v": plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
        },
        collective_axes="warpgroup",
    )


def _copy(k, v, group, shared, arrived, used, keys, first, block: int, stages: int):
    """The warpgroup that copies: blocks of keys and values into a ring of ``stages`` slots."""
    head = jax.lax.axis_index("head")
    steps = pl.cdiv(keys, block)

    def copy(name, source, step, slot):
        rows = pl.ds(first + step * block, block)
        plgpu.copy_gmem_to_smem(source.at[group, rows, head], shared[name].at[slot], arrived[name].at[slot])

    for slot in range(stages):

        @pl.when(slot < steps)
        def _(slot=slot):
            copy("k", k, slot, slot)
            copy("v", v, slot, slot)

    def refill(step, _):
        slot = jax.lax.rem(step, jnp.int32(stages))
        for name, source in (("k", k), ("v", v)):
            plgpu.barrier_wait(used[name].at[slot])
            copy(name, source, step + stages, slot)

    jax.lax.fori_loop(0, jnp.maximum(steps - stages, 0), refill, None)


def _compute(q, o, lse, shared, arrived, used, keys, first, block: int, stages: int, *, scale: float):
    """A warpgroup that computes: the running softmax of 64 rows, in base 2, over all blocks of the range."""
    del first
    me, head = jax.lax.axis_index("warpgroup"), jax.lax.axis_index("head")
    tile, part = jax.lax.axis_index("tile"), jax.lax.axis_index("part")
    width = q.shape[-1]
    queries, weights = shared["q"].at[me], shared["weights"].at[me]
    plgpu.copy_gmem_to_smem(q.at[tile, head, pl.ds(me * ROWS, ROWS)], queries, arrived["q"].at[me])
    plgpu.barrier_wait(arrived["q"].at[me])

    def full(shape, value, layout):
        return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)

    def product(left, right, shape):
        def multiply(accumulator):
            plgpu.wgmma(accumulator, left, right)
            return accumulator[...]

        return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))  # pyright: ignore[reportPrivateImportUsage]

    def columns(array, shape):
        return jax.lax.broadcast_in_dim(array, shape, [0])

    def step(index, state, last: bool):
        top, total, weighted = state
        slot = jax.lax.rem(index, jnp.int32(stages))
        plgpu.barrier_wait(arrived["k"].at[slot])
        scores = product(queries, shared["k"].at[slot].transpose((1, 0)), (ROWS, block))
        plgpu.barrier_arrive(used["k"].at[slot])
        if last:
            position = plgpu.broadcasted_iota(jnp.int32, scores.shape, 1, layout=plgpu.Layout.WGMMA)
            scores = jnp.where(position < keys - index * block, scores, -jnp.inf)
        new_top = jnp.maximum(top, scores.max(axis=1) * (scale * LOG2_E))  # finite: a block has a key in use
        shrink = jnp.exp2(top - new_top)
        parts = jnp.exp2(scores * (scale * LOG2_E) - columns(new_top, scores.shape))
        total = total * shrink + parts.sum(axis=1)
        weights[...] = parts.astype(q.dtype)
        plgpu.commit_smem()
        plgpu.barrier_wait(arrived["v"].at[slot])
        if last:
            _clear_rows(shared["v"].at[slot], keys - index * block, arrived["clean"])
        update = product(weights, shared["v"].at[slot], (ROWS, width))
        plgpu.barrier_arrive(used["v"].at[slot])
        return new_top, total, weighted * columns(shrink, update.shape) + update

    row = plgpu.Layout.WGMMA.reduce(1)
    state = full((ROWS,), -jnp.inf, row), full((ROWS,), 0, row), full((ROWS, width), 0, plgpu.Layout.WGMMA)
    whole = jax.lax.div(keys, jnp.int32(block))
    state = jax.lax.fori_loop(0, whole, functools.partial(step, last=False), state)
    state = jax.lax.fori_loop(whole, pl.cdiv(keys, block), functools.partial(step, last=True), state)
    top, total, weighted = state
    divisor = jnp.where(total == 0, 1, total)
    shared["o"][me] = weighted / columns(divisor, weighted.shape)
    shared["lse"][me] = top * (1 / LOG2_E) + jnp.log(total)  # -inf - inf where no key was in use
    plgpu.commit_smem()
    written = min(ROWS, o.shape[-2])
    plgpu.copy_smem_to_gmem(shared["o"].at[me, pl.ds(0, written)], o.at[tile, part, head, pl.ds(me * ROWS, written)])
    plgpu.copy_smem_to_gmem(shared["lse"].at[me], lse.at[tile, part, head, pl.ds(me * ROWS, ROWS)])
    plgpu.wait_smem_to_gmem(0)


def _clear_rows(values, in_use, done):
    """Write zeros over the rows of a block that are not in use, which may hold NaN."""

    @pl.when(jax.lax.axis_index("warpgroup") == 0)
    def _():
        for begin in range(0, values.shape[0], ROWS):
            part = values.at[pl.ds(begin, ROWS)]
            row = plgpu.broadcasted_iota(jnp.int32, part.shape, 0, layout=plgpu.Layout.WGMMA)
            part[...] = jnp.where(row < in_use - begin, plgpu.layout_cast(part[...], plgpu.Layout.WGMMA), 0)
        plgpu.commit_smem()
        plgpu.barrier_arrive(done)

    plgpu.barrier_wait(done)
