"""The nearest key as a Mosaic TPU kernel.

    grid: codebooks x blocks of queries x blocks of keys

The last dimension runs in order: the best score and its place stay in scratch memory and are written out behind the last block.
Keys lie with their numbers in sublanes and one key in each lane, ``[C, E, K]``: narrow keys in lanes would leave most of each
register empty.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.nearest_key.origin import seen_from_a_key

MOST_QUERIES = 256
MOST_KEYS = 1024
MOST_WIDTH = 1024
SUBLANES, LANES = 8, 128


def nearest_key(queries: jax.Array, keys: jax.Array, used: jax.Array | None) -> jax.Array:
    """The places of :func:`pallas_kernels.nearest_key`."""
    if queries.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"takes float32 and bfloat16, got {queries.dtype}")
    if queries.shape[2] > MOST_WIDTH:
        raise NotImplementedError(f"takes keys of at most {MOST_WIDTH} numbers, got {queries.shape[2]}")
    return _nearest(queries, keys, used)


@jax.jit
def _nearest(queries: jax.Array, keys: jax.Array, used: jax.Array | None) -> jax.Array:
    queries, keys, bias = seen_from_a_key(queries, keys, used)
    num_codebooks, num_queries, width = queries.shape
    rows, columns = _block(num_queries, SUBLANES, MOST_QUERIES), _block(keys.shape[1], LANES, MOST_KEYS)
    queries = _padded(queries, 1, rows)
    keys = _padded(keys.swapaxes(1, 2), 2, columns)
    bias = _padded(bias[:, None], 2, columns, -jnp.inf)
    steps = keys.shape[2] // columns
    index = pl.pallas_call(
        functools.partial(_kernel, steps=steps),
        grid=(num_codebooks, queries.shape[1] // rows, steps),
        in_specs=[
            pl.BlockSpec((1, rows, width), lambda codebook, row, step: (codebook, row, 0)),
            pl.BlockSpec((1, width, columns), lambda codebook, row, step: (codebook, 0, step)),
            pl.BlockSpec((1, 1, columns), lambda codebook, row, step: (codebook, 0, step)),
        ],
        out_specs=pl.BlockSpec((1, rows, 1), lambda codebook, row, step: (codebook, row, 0)),
        out_shape=jax.ShapeDtypeStruct((num_codebooks, queries.shape[1], 1), jnp.int32),
        scratch_shapes=[pltpu.VMEM((rows, 1), jnp.float32), pltpu.VMEM((rows, 1), jnp.int32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        name="nearest_key",
    )(queries, keys, bias)
    return index[:, :num_queries, 0]


def _block(size: int, multiple: int, most: int) -> int:
    """A block of a multiple, as even as they get."""
    blocks = pl.cdiv(size, most)
    return pl.cdiv(pl.cdiv(size, blocks), multiple) * multiple


def _padded(array: jax.Array, axis: int, block: int, value: float = 0.0) -> jax.Array:
    """Whole blocks."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % block)
    return jnp.pad(array, widths, constant_values=value)


def _kernel(queries, keys, bias, index, best, place, *, steps: int):
    """One block of keys against one block of queries."""
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        best[...] = jnp.full(best.shape, -jnp.inf, jnp.float32)
        place[...] = jnp.full(place.shape, -1, jnp.int32)

    scores = bias[0] + jax.lax.dot_general(
        queries[0],
        keys[0],
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )
    columns = scores.shape[1]
    top = scores.max(axis=1, keepdims=True)
    lane = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1).astype(jnp.float32)  # exact, and reduced everywhere
    first = jnp.where(scores == top, lane, float(columns)).min(axis=1, keepdims=True).astype(jnp.int32)
    better = top > best[...]
    place[...] = jnp.where(better, step * columns + first, place[...])
    best[...] = jnp.where(better, top, best[...])

    @pl.when(step == steps - 1)
    def _():
        index[0] = place[...]
