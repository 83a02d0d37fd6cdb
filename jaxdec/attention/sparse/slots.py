"""Slots of a cache, cut out as they lie and written in place.

A cache that has just been appended to must not be reshaped to be read: XLA then writes it out once more in each shape, a copy
of the whole layer at every step.
"""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float, Int

UNROLLED_ROWS = 8


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


def write_slots(
    buffer: Float[Array, "B G S E"], new: Float[Array, "B G T E"], start: Int[Array, "B"]
) -> Float[Array, "B G S E"]:
    """Write ``new[b]`` at ``start[b]``, which leaves room for it; in place."""
    new = new.astype(buffer.dtype)
    if jax.default_backend() != "cpu":
        return jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=1))(
            buffer, new, start
        )
    # A batched slice update becomes a scatter, which is slow on CPU: write row after row.
    zero = jnp.zeros((), start.dtype)

    def write_row(row, buffer):
        place = (row.astype(start.dtype), zero, start[row], zero)
        return jax.lax.dynamic_update_slice(buffer, jax.lax.dynamic_slice_in_dim(new, row, 1), place)

    if buffer.shape[0] > UNROLLED_ROWS:
        return jax.lax.fori_loop(jnp.int32(0), jnp.int32(buffer.shape[0]), write_row, buffer)
    for row in range(buffer.shape[0]):
        buffer = write_row(jnp.int32(row), buffer)
    return buffer
