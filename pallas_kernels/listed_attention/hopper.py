"""Tiles of query rows against the blocks of keys of their lists, as a Mosaic GPU kernel for Hopper.

    grid: ranges of the lists x tiles

The program is that of :mod:`pallas_kernels.tiled_attention.hopper`, a warpgroup that copies ahead and one or two that compute,
but what a step copies is read from the list: several small blocks into one slot of the ring, or a part of a large one. Places
that a last step has no blocks for get the last one again, and no row may read them.

Every step is masked, since the blocks of a list lie anywhere. The running softmax begins at the lowest number there is and not
at minus infinity: a row may be allowed no key of a step.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.tiled_attention.hopper import (
    COMPUTE_REGISTERS,
    COPY_REGISTERS,
    LOG2_E,
    MOST_ROWS,
    MOST_STAGES,
    ROWS,
    SHARED_BYTES,
    block_of,
    check_supported,
    tiles_of,
)

NOWHERE = 1 << 30  # position of keys that a step has no blocks for: behind every length
LOWEST = float(jnp.finfo(jnp.float32).min)


def check_lists(q: jax.Array, rows: int, block: int):
    """Raise NotImplementedError for what the kernel does not do: tiles of ``rows`` rows, blocks of ``block`` keys."""
    check_supported(q)
    if q.shape[0] == 0:
        raise NotImplementedError("takes at least one row, got none")
    if rows > MOST_ROWS:
        raise NotImplementedError(f"takes at most {MOST_ROWS} query rows with one list, got {rows}")
    keys = block_of(q.shape[-1])
    if block < 16 or (block % keys and keys % block):
        raise NotImplementedError(
            f"takes blocks of a multiple of {keys} keys, or of {', '.join(str(2**e) for e in range(4, 7) if 2**e < keys)}, "
            f"got {block}"
        )


@functools.partial(jax.jit, static_argnames=("block", "splits", "scale"))
def attend_lists(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    count: jax.Array,
    source: jax.Array,
    head: jax.Array,
    length: jax.Array,
    first: jax.Array | None = None,
    *,
    block: int,
    splits: int = 1,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each tile to each range of its list.

    Args:
      q: ``[W, R, D]``, ``R`` at most ``MOST_ROWS``.
      k: ``[Z, S, G, D]``. Copied to a longer array if ``S`` is no multiple of ``block``.
      v: like ``k``.
      index: ``int32[W, M]``, all within the ``ceil(S / block)`` blocks.
      count: ``int32[W]``, blocks that are read.
      source: ``int32[W]``, which row of ``k`` a tile reads.
      head: ``int32[W]``, which of its heads.
      length: ``int32[W]``, keys in use.
      first: ``int32[W]``, position of the first row of causal tiles; None if they are not causal.
      block: keys of a listed block.
      splits: ranges, at most; they are cut at whole steps.
      scale: of the scores.

    Returns:
      ``o float32[W, N, R, D]`` and ``lse float32[W, N, R]`` for ``N`` ranges.
    """
    num_tiles, rows, width = q.shape
    keys = block_of(width)  # of a step
    k, v = (jnp.pad(array, ((0, 0), (0, -array.shape[1] % block), (0, 0), (0, 0))) for array in (k, v))
    steps = pl.cdiv(index.shape[1] * block, keys)
    per_range = pl.cdiv(steps, min(splits, steps))
    num_ranges = pl.cdiv(steps, per_range)
    warpgroups = pl.cdiv(rows, ROWS)  # that compute
    q = jnp.pad(q, ((0, 0), (0, warpgroups * ROWS - rows), (0, 0)))
    # Of a single warpgroup only the rows in use are written out, in whole tiles of shared memory.
    written = warpgroups * ROWS if warpgroups > 1 else 8 * pl.cdiv(rows, 8)
    size = jnp.dtype(q.dtype).itemsize
    fixed = warpgroups * ROWS * (size * (width + keys) + 4 * width)  # queries, weights, output
    kernel = functools.partial(
        _kernel,
        block=block,
        places=index.shape[1],
        per_range=per_range,
        stages=min(MOST_STAGES, (SHARED_BYTES - fixed) // (2 * size * keys * width)),
        warpgroups=warpgroups,
        causal=first is not None,
        scale=scale,
    )
    o, lse = plgpu.kernel(
        kernel,
        out_type=[
            jax.ShapeDtypeStruct((num_tiles, num_ranges, written, width), jnp.float32),
            jax.ShapeDtypeStruct((num_tiles, num_ranges, warpgroups * ROWS), jnp.float32),
        ],
        grid=(num_ranges, num_tiles),
        grid_names=("part", "tile"),
        num_threads=warpgroups + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
    )(q, k, v, index.reshape(-1), count, source, head, length, jnp.zeros_like(count) if first is None else first)
    return o[..., :rows, :], lse[..., :rows]


class _List:
    """The list of the tile of this program, in pieces: what is copied at a time, at most a step."""

    def __init__(self, index, count, block: int, places: int, per_range: int, keys: int):
        tile = jax.lax.axis_index("tile")
        self.index, self.begin, self.keys = index, tile * places, keys
        self.piece = min(block, keys)
        self.block, self.per_block, self.per_step = block, block // self.piece, keys // self.piece
        self.first = jax.lax.axis_index("part") * per_range  # step
        self.in_use = count[tile] * self.per_block
        self.steps = jnp.clip(pl.cdiv(self.in_use, self.per_step) - self.first, 0, per_range)

    def position(self, step, piece: int, copied: bool):
        """Of the first key of a piece of a step; of a piece behind the list ``NOWHERE``, and where it is copied the last."""
        place = (self.first + step) * self.per_step + piece
        last = jnp.minimum(place, self.in_use - 1)
        part = jax.lax.rem(last, jnp.int32(self.per_block)) * self.piece
        found = self.index[self.begin + jax.lax.div(last, jnp.int32(self.per_block))] * self.block + part
        return found if copied else jnp.where(place < self.in_use, found, NOWHERE)


def _kernel(
    q,
    k,
    v,
    index,
    count,
    source,
    head,
    length,
    first,
    o,
    lse,
    *,
    block: int,
    places: int,
    per_range: int,
    stages: int,
    warpgroups: int,
    causal: bool,
    scale: float,
):
    """One tile, one range."""
    width = q.shape[-1]
    keys = block_of(width)

    def matrices(*shape, dtype=q.dtype):
        return plgpu.SMEM(shape, dtype, transforms=tiles_of(dtype))

    def entry(shared, arrived, used):
        me, tile = jax.lax.axis_index("warpgroup"), jax.lax.axis_index("tile")
        listed = _List(index, count, block, places, per_range, keys)

        @pl.when(me < warpgroups)
        def _():
            if warpgroups > 1:
                plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
            begin = first[tile] if causal else None
            _compute(q, o, lse, shared, arrived, used, listed, length[tile], begin, stages, scale)

        @pl.when(me == warpgroups)
        def _():
            if warpgroups > 1:
                plgpu.set_max_registers(COPY_REGISTERS, action="decrease")
            _copy(k, v, source[tile], head[tile], shared, arrived, used, listed, stages)

    pieces = keys // min(block, keys)
    pl.run_scoped(
        entry,
        {
            "q": matrices(warpgroups, ROWS, width),
            "k": matrices(stages, keys, width),
            "v": matrices(stages, keys, width),
            "weights": matrices(warpgroups, ROWS, keys),
            "o": matrices(warpgroups, ROWS, width, dtype=jnp.float32),
            "lse": plgpu.SMEM((warpgroups, ROWS), jnp.float32),
        },
        {
            "q": plgpu.Barrier(num_barriers=warpgroups),
            "k": plgpu.Barrier(num_arrivals=pieces, num_barriers=stages),
            "v": plgpu.Barrier(num_arrivals=pieces, num_barriers=stages),
            "clean": plgpu.Barrier(num_arrivals=warpgroups),
        },
        {
            "k": plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
            "v": plgpu.Barrier(num_arrivals=warpgroups, num_barriers=stages),
        },
        collective_axes="warpgroup",
    )


def _copy(k, v, source, head, shared, arrived, used, listed: _List, stages: int):
    """The warpgroup that copies: pieces of keys and values into a ring of ``stages`` slots."""

    def copy(name, side, step, slot):
        for piece in range(listed.per_step):
            rows = pl.ds(listed.position(step, piece, copied=True), listed.piece)
            target = shared[name].at[slot, pl.ds(piece * listed.piece, listed.piece)]
            plgpu.copy_gmem_to_smem(side.at[source, rows, head], target, arrived[name].at[slot])

    for slot in range(stages):

        @pl.when(slot < listed.steps)
        def _(slot=slot):
            copy("k", k, slot, slot)
            copy("v", v, slot, slot)

    def refill(step, _):
        slot = jax.lax.rem(step, jnp.int32(stages))
        for name, side in (("k", k), ("v", v)):
            plgpu.barrier_wait(used[name].at[slot])
            copy(name, side, step + stages, slot)

    jax.lax.fori_loop(0, jnp.maximum(listed.steps - stages, 0), refill, None)


def _compute(q, o, lse, shared, arrived, used, listed: _List, length, first: Any, stages: int, scale: float):
    """A warpgroup that computes: the running softmax of 64 rows, in base 2, over all steps of the range."""
    me = jax.lax.axis_index("warpgroup")
    tile, part = jax.lax.axis_index("tile"), jax.lax.axis_index("part")
    width, keys = q.shape[-1], listed.keys
    queries, weights = shared["q"].at[me], shared["weights"].at[me]
    plgpu.copy_gmem_to_smem(q.at[tile, pl.ds(me * ROWS, ROWS)], queries, arrived["q"].at[me])
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

    def number(shape, axis: int):
        return plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=plgpu.Layout.WGMMA)

    def step(index, state):
        top, total, weighted = state
        slot = jax.lax.rem(index, jnp.int32(stages))
        begins = [listed.position(index, piece, copied=False) for piece in range(listed.per_step)]
        plgpu.barrier_wait(arrived["k"].at[slot])
        scores = product(queries, shared["k"].at[slot].transpose((1, 0)), (ROWS, keys))
        plgpu.barrier_arrive(used["k"].at[slot])
        position = _positions(number(scores.shape, 1), begins, listed.piece)
        allowed = position < length
        if first is not None:
            row = first + me * ROWS + number(scores.shape, 0)
            allowed = allowed & (position <= row) & (row < length)
        scores = jnp.where(allowed, scores * (scale * LOG2_E), -jnp.inf)
        new_top = jnp.maximum(top, scores.max(axis=1))
        shrink = jnp.exp2(top - new_top)
        parts = jnp.exp2(scores - columns(new_top, scores.shape))
        total = total * shrink + parts.sum(axis=1)
        weights[...] = parts.astype(q.dtype)
        plgpu.commit_smem()
        plgpu.barrier_wait(arrived["v"].at[slot])
        _clear_rows(shared["v"].at[slot], begins, listed.piece, length, arrived["clean"])
        update = product(weights, shared["v"].at[slot], (ROWS, width))
        plgpu.barrier_arrive(used["v"].at[slot])
        return new_top, total, weighted * columns(shrink, update.shape) + update

    row = plgpu.Layout.WGMMA.reduce(1)
    state = full((ROWS,), LOWEST, row), full((ROWS,), 0, row), full((ROWS, width), 0, plgpu.Layout.WGMMA)
    top, total, weighted = jax.lax.fori_loop(0, listed.steps, step, state)
    divisor = jnp.where(total == 0, 1, total)
    shared["o"][me] = weighted / columns(divisor, weighted.shape)
    shared["lse"][me] = top * (1 / LOG2_E) + jnp.log(total)  # log 0 is -inf, where no key was read
    plgpu.commit_smem()
    written = min(ROWS, o.shape[-2])
    plgpu.copy_smem_to_gmem(shared["o"].at[me, pl.ds(0, written)], o.at[tile, part, pl.ds(me * ROWS, written)])
    plgpu.copy_smem_to_gmem(shared["lse"].at[me], lse.at[tile, part, pl.ds(me * ROWS, ROWS)])
    plgpu.wait_smem_to_gmem(0)


def _positions(number, begins, piece: int):
    """Positions of the keys of a step from their numbers in it; ``begins`` are those of its pieces."""
    position = number + begins[0]
    for index, begin in enumerate(begins[1:], 1):
        position = jnp.where(number >= index * piece, number + (begin - index * piece), position)
    return position


def _clear_rows(values, begins, piece: int, length, done):
    """Write zeros over the rows of a step that are not in use, which may hold NaN, if there are any."""
    last = functools.reduce(jnp.maximum, begins) + piece

    @pl.when(last > length)
    def _():
        @pl.when(jax.lax.axis_index("warpgroup") == 0)
        def _():
            for begin in range(0, values.shape[0], ROWS):
                part = values.at[pl.ds(begin, ROWS)]
                row = plgpu.broadcasted_iota(jnp.int32, part.shape, 0, layout=plgpu.Layout.WGMMA) + begin
                used = _positions(row, begins, piece) < length
                part[...] = jnp.where(used, plgpu.layout_cast(part[...], plgpu.Layout.WGMMA), 0)
            plgpu.commit_smem()

        # All arrive, so that the first warpgroup does not clear another step before the second has seen this one done.
        plgpu.barrier_arrive(done)
        plgpu.barrier_wait(done)
