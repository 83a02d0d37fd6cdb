"""Tiles of query rows against the blocks of keys of their lists, through Triton, for NVIDIA GPUs from Ampere (sm80) on.

The program is in :mod:`pallas_kernels.listed_attention.triton_kernel`; here is how it is started. Blocks, tiles and warps are
those of :mod:`pallas_kernels.tiled_attention.triton`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.tiled_attention.triton import check_machine, check_queries, launch, most_rows, packages, start


class Steps(NamedTuple):
    """Rows of ``D`` numbers from one to the next, of a row of the batch, a head, a list (of queries alone), a row or key."""

    batch: int
    head: int
    list: int
    row: int


def check_supported(q: jax.Array):
    """Raise NotImplementedError for what the kernel does not do, on a GPU that it is not for, or without its packages."""
    check_queries(q)
    check_machine()
    program()


def program():
    """The module of the kernel; NotImplementedError if ``triton`` cannot be imported."""
    packages()
    from pallas_kernels.listed_attention import triton_kernel

    return triton_kernel


@functools.partial(
    jax.jit, static_argnames=("queries", "keys", "sharing", "rows", "block", "tokens", "splits", "scale")
)
def attend_lists(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    count: jax.Array,
    length: jax.Array,
    *,
    queries: Steps,
    keys: Steps,
    sharing: int,
    rows: int,
    block: int,
    tokens: int | None = None,
    splits: int = 1,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of the rows of each list to each range of the keys that it lists.

    Args:
      q: ``[..., D]``, read as ``queries`` says.
      k: ``[..., D]``, read as ``keys`` says.
      v: like ``k``.
      index: ``int32[B, J, N, M]``, all in range.
      count: ``int32[B, J, N]``.
      length: ``int32[B]``, keys in use.
      queries: where the queries lie. No row of ``q`` may have two lists.
      keys: where the keys lie.
      sharing: heads with lists that read one head of keys.
      rows: query rows with one list.
      block: keys of a listed block.
      tokens: of causal rows, whose lists follow one another: how many there are. None if rows read what is in use.
      splits: ranges of the ``M * block`` places of a list, at most; they are cut at whole pieces of what is read at a time.
      scale: of the scores.

    Returns:
      ``o float32[R, ..., D]`` and ``lse float32[R, ...]`` for ``R`` ranges, otherwise like ``q``. Rows without a list hold
      anything.
    """
    batch, heads, lists, most = index.shape
    width = q.shape[-1]
    cut = launch(min(rows, most_rows(width, q.dtype)), width, q.dtype)
    pieces = -(-most * block // cut.block)
    per_range = -(-pieces // min(splits, pieces))
    ranges = -(-pieces // per_range)
    out = [jax.ShapeDtypeStruct((ranges, *shape), jnp.float32) for shape in (q.shape, q.shape[:-1])]
    o, lse = start(
        program().attend_lists,
        (q, k, v, index, count, length),
        out,
        (lists * ranges * -(-rows // cut.tile), heads, batch),
        cut,
        SCALE=scale * math.log2(math.e),
        LISTS=lists,
        MOST=most,
        SHARING=sharing,
        Q_BATCH=queries.batch,
        Q_HEAD=queries.head,
        Q_LIST=queries.list,
        Q_ROW=queries.row,
        Q_ALL=q.size // width,
        K_BATCH=keys.batch,
        K_HEAD=keys.head,
        K_KEY=keys.row,
        ROWS=rows,
        TOKENS=tokens or 0,
        LISTED=block,
        RANGES=ranges,
        RANGE=per_range * cut.block,
        WIDTH=width,
    )
    return o, lse
