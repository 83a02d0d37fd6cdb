"""Tiles of query rows against the blocks of keys of their lists, as a Mosaic TPU kernel.

    grid: tiles x steps through the list

Lists and lengths are scalars fetched ahead: which blocks a step works on is read from the list by what copies them, so those of
the next step are copied meanwhile. Blocks of lists can be small (pages of 16 keys), so a step takes several, each an operand of
its own, as far as :data:`KEYS_OF_A_STEP` and :data:`MOST_OPERANDS` go. The last dimension runs in order and keeps the running
softmax in scratch memory. Behind the end of a list nothing is copied and nothing computed.

Scalars have a memory of their own, 1 MiB, and the lists of a long prompt do not fit. Tiles then go to several calls, one after
the other.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of

ROW_MULTIPLE = 16  # sublanes of a two-byte type; twice those of float32
MOST_ROWS = 512
MOST_BLOCK = 1024
KEYS_OF_A_STEP = 512
MOST_OPERANDS = 8
SCALAR_BYTES = 256 << 10
NOWHERE = 1 << 30  # position of keys that a step has no blocks for: behind every length


def check_supported(q: jax.Array, rows: int, block: int):
    """Raise NotImplementedError for what the kernel does not do: tiles of ``rows`` rows, blocks of ``block`` keys."""
    if q.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"takes float32 and bfloat16, got {q.dtype}")
    if q.shape[-1] not in (64, 128, 256):
        raise NotImplementedError(f"takes heads of width 64, 128 and 256, got {q.shape[-1]}")
    if q.shape[0] == 0:
        raise NotImplementedError("takes at least one row, got none")
    if rows > MOST_ROWS:
        raise NotImplementedError(f"takes at most {MOST_ROWS} query rows with one list, got {rows}")
    if block % ROW_MULTIPLE or block > MOST_BLOCK:
        raise NotImplementedError(
            f"takes blocks of a multiple of {ROW_MULTIPLE} keys, {MOST_BLOCK} at most, got {block}"
        )


@functools.partial(jax.jit, static_argnames=("block", "scale"))
def attend_lists(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    count: jax.Array,
    source: jax.Array,
    length: jax.Array,
    first: jax.Array | None = None,
    *,
    block: int,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each tile to the blocks of its list.

    Args:
      q: ``[W, R, D]``, padded here to a multiple of ``ROW_MULTIPLE`` rows.
      k: ``[Z, S, D]``, ``S`` a multiple of ``block``.
      v: like ``k``.
      index: ``int32[W, M]``, all within the ``S / block`` blocks.
      count: ``int32[W]``, blocks that are read.
      source: ``int32[W]``, which row of ``k`` a tile reads.
      length: ``int32[W]``, keys in use.
      first: ``int32[W]``, position of the first row of causal tiles; None if they are not causal.
      block: keys of a block.
      scale: of the scores.

    Returns:
      ``o float32[W, R, D]`` and ``lse float32[W, R]``.
    """
    num_tiles, rows, _ = q.shape
    operands = min(index.shape[1], MOST_OPERANDS, max(KEYS_OF_A_STEP // block, 1))
    index = jnp.pad(index, ((0, 0), (0, -index.shape[1] % operands)))
    scalars = [count, source, length, jnp.zeros_like(count) if first is None else first]
    tiles_of_a_call = max(min(SCALAR_BYTES // (4 * (index.shape[1] + len(scalars))), num_tiles), 1)
    calls = pl.cdiv(num_tiles, tiles_of_a_call)
    tiles_of_a_call = pl.cdiv(num_tiles, calls)
    attend = functools.partial(_attend, operands=operands, causal=first is not None, block=block, scale=scale)

    def part(array):
        array = jnp.pad(array, ((0, calls * tiles_of_a_call - num_tiles), *[(0, 0)] * (array.ndim - 1)))
        return array.reshape(calls, tiles_of_a_call, *array.shape[1:])

    q = jnp.pad(q, ((0, 0), (0, -rows % ROW_MULTIPLE), (0, 0)))
    parts = tuple(part(array) for array in (q, index, *scalars))
    o, lse = jax.lax.map(lambda part: attend(part[0], k, v, part[1].reshape(-1), *part[2:]), parts)
    o, lse = (array.reshape(-1, *array.shape[2:])[:num_tiles, :rows] for array in (o, lse))
    return o, lse[..., 0]


def _attend(q, k, v, index, count, source, length, first, *, operands: int, causal: bool, block: int, scale: float):
    """One call: tiles whose lists fit the memory of scalars."""
    num_tiles, rows, width = q.shape
    places = index.shape[0] // num_tiles

    def key_block(operand: int):
        def at(tile, step, index, count, source, *_):
            place = jnp.minimum(step * operands + operand, jnp.maximum(count[tile] - 1, 0))
            return source[tile], index[tile * places + place], 0

        return pl.BlockSpec((1, block, width), at)

    kv = [key_block(operand) for operand in range(operands)]
    tile = lambda size: pl.BlockSpec((1, rows, size), lambda tile, *_: (tile, 0, 0))  # noqa: E731
    return pl.pallas_call(
        functools.partial(_kernel, operands=operands, causal=causal, block=block, scale=scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=5,
            grid=(num_tiles, places // operands),
            in_specs=[tile(width), *kv, *kv],
            out_specs=[tile(width), tile(1)],
            scratch_shapes=[pltpu.VMEM((rows, size), jnp.float32) for size in (1, 1, width)],
        ),
        out_shape=[jax.ShapeDtypeStruct((num_tiles, rows, size), jnp.float32) for size in (width, 1)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        name="attend_lists",
    )(index, count, source, length, first, q, *[k] * operands, *[v] * operands)


def _kernel(index, count, source, length, first, q, *refs, operands: int, causal: bool, block: int, scale: float):
    """Some blocks of the list of one tile."""
    del source  # the copies have used it
    (o, lse, *state), sides = refs[2 * operands :], (refs[:operands], refs[operands : 2 * operands])
    tile, step, steps = pl.program_id(0), pl.program_id(1), pl.num_programs(1)
    _, rows, width = q.shape

    @pl.when(step == 0)
    def _():
        for ref, value in zip(state, empty(rows, width, jnp.float32)):
            ref[...] = value

    @pl.when(step * operands < count[tile])
    def _():
        def positions(axis: int):
            """Of the step's keys: a piece for each block, in the order of the list."""
            shape = (1, operands * block) if axis else (operands * block, 1)
            key = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
            position = jnp.full(shape, NOWHERE, jnp.int32)
            for operand in range(operands):
                place = step * operands + operand
                begin = index[tile * (steps * operands) + place] * block - operand * block
                mine = (key >= operand * block) & (key < (operand + 1) * block) & (place < count[tile])
                position = jnp.where(mine, key + begin, position)
            return position

        keys, values = (jnp.concatenate([ref[0] for ref in side]) if operands > 1 else side[0][0] for side in sides)
        scores = scale * jax.lax.dot_general(
            q[0],
            keys,
            (((1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
            precision=precision_of(q.dtype),
        )
        allowed = positions(1) < length[tile]
        if causal:
            row = first[tile] + jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
            allowed = allowed & (positions(1) <= row) & (row < length[tile])
        values = jnp.where(positions(0) < length[tile], values, 0)  # 0 * NaN is NaN
        new = fold(SoftmaxState(*(ref[...] for ref in state)), jnp.where(allowed, scores, -jnp.inf), values)
        for ref, value in zip(state, new):
            ref[...] = value

    @pl.when(step == steps - 1)
    def _():
        o[0], lse[0] = finish(SoftmaxState(*(ref[...] for ref in state)))
