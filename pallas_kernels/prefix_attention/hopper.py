"""Shared-prefix attention on Hopper: tiles of rows through :mod:`pallas_kernels.tiled_attention.hopper`."""

import functools

import jax
import numpy as np

from pallas_kernels.prefix_attention.in_tiles import attend_groups
from pallas_kernels.tiled_attention.hopper import MOST_ROWS, attend_tiles, check_supported

KEYS_OF_A_RANGE = 2048
"""A tile is one program per key/value head and range. Longer prefixes have more ranges, and with 8192 keys and 8 heads four
tiles give every multiprocessor work. Never chosen by the batch: ranges are what the order of summation hangs on."""


def prefix_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    kv_lengths: jax.Array | None,
    query_offsets: np.ndarray | jax.Array,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.prefix_attention`. The gradient is that of the XLA backend."""
    check_supported(q)
    if (heads := q.shape[1] // k.shape[2]) > MOST_ROWS:
        raise NotImplementedError(f"takes at most {MOST_ROWS} query heads per key/value head, got {heads}")
    attend = functools.partial(attend_tiles, num_splits=-(-k.shape[1] // KEYS_OF_A_RANGE), scale=scale)
    return attend_groups(attend, q, k, v, kv_lengths, query_offsets, scale, tile=MOST_ROWS, multiple=1)
