"""Pages of a pool: dealing them out to rows, reading and writing what lies in them."""

import jax.numpy as jnp

from jaxdec.typing import Array, Float, Int
from pallas_kernels.arguments import concrete

NOWHERE = 0
"""The page of nobody: what is written there is lost, and what is read there must be masked."""


def deal(counts: Int[Array, "B"], num_pages: int, width: int) -> Int[Array, "B M"]:
    """Deal pages ``1 .. num_pages`` out, row after row.

    Args:
      counts: pages of each row.
      num_pages: pages that there are, beside that of nobody.
      width: entries of each row's table; those behind its pages are ``NOWHERE``.

    Raises:
      ValueError: there are too few, where that is known; otherwise the last rows go without.
    """
    known = concrete(counts)
    if known is not None and known.sum() > num_pages:
        raise ValueError(
            f"num_pages must be at least {known.sum()}, what the rows need together; there are {num_pages}"
        )
    index = jnp.arange(width)
    page = 1 + (jnp.cumsum(counts) - counts)[:, None] + index
    return jnp.where((index < counts[:, None]) & (page <= num_pages), page, NOWHERE).astype(jnp.int32)


def places(page_table: Int[Array, "B M"], slots: Int[Array, "B T"], page_size: int) -> tuple[Array, Array]:
    """Page of each slot, and where in it the slot lies: twice ``[B, T]``."""
    pages = jnp.take_along_axis(page_table, slots // page_size, axis=1, mode="fill", fill_value=NOWHERE)
    return pages, slots % page_size


def write(pool: Float[Array, "N P G E"], new: Float[Array, "B T G E"], place: tuple[Array, Array]) -> Array:
    """Write entries where :func:`places` says, in place."""
    return pool.at[place].set(new.astype(pool.dtype), mode="promise_in_bounds")


def read(pool: Float[Array, "N P G E"], place: tuple[Array, Array]) -> Float[Array, "B T G E"]:
    """Read entries where :func:`places` says."""
    return pool.at[place].get(mode="promise_in_bounds")


def gather(pool: Float[Array, "N P G E"], pages: Int[Array, "B M"]) -> Float[Array, "B G S E"]:
    """All entries of some pages of each row, side by side."""
    found = pool.at[pages].get(mode="promise_in_bounds")
    batch, count, size, heads, width = found.shape
    return found.reshape(batch, count * size, heads, width).swapaxes(1, 2)
