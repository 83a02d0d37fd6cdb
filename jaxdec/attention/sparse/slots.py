"""Slots of one head of one row, cut out of a cache as it lies.

A cache that has just been appended to must not be reshaped to be read: XLA then writes it out once more in each shape, a copy
of the whole layer at every step.
"""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float, Int


def cut_slots(
    side: Float[Array, "B G S E"], row: Int[Array, ""], head: Int[Array, ""], first: Int[Array, ""], count: int
) -> Float[Array, "N E"]:
    """``count`` slots from ``first`` on, which must lie within the cache."""
    part = jax.lax.dynamic_slice(side, (row, head, first, 0), (1, 1, count, side.shape[3]))
    return part.reshape(count, side.shape[3])


def cut_pieces(
    side: Float[Array, "B G S E"], row: Int[Array, ""], head: Int[Array, ""], first: Int[Array, "N"], count: int
) -> Float[Array, "K E"]:
    """``count`` slots from each of ``first`` on, one piece behind the other; all must lie within the cache."""
    starts = jnp.stack(jnp.broadcast_arrays(row.astype(first.dtype), head.astype(first.dtype), first), axis=1)
    numbers = jax.lax.GatherDimensionNumbers(offset_dims=(1, 2), collapsed_slice_dims=(0, 1), start_index_map=(0, 1, 2))
    mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    pieces = jax.lax.gather(side, starts, numbers, (1, 1, count, side.shape[3]), mode=mode)
    return pieces.reshape(-1, side.shape[3])
