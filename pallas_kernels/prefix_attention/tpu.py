"""Shared-prefix attention on TPU: tiles of rows through :mod:`pallas_kernels.tiled_attention.tpu`."""

import functools

import jax
import numpy as np

from pallas_kernels.prefix_attention.in_tiles import attend_groups
from pallas_kernels.tiled_attention.tpu import ROW_MULTIPLE, attend_tiles, check_supported

TILE = 128


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
    attend = functools.partial(attend_tiles, scale=scale)
    return attend_groups(attend, q, k, v, kv_lengths, query_offsets, scale, tile=TILE, multiple=ROW_MULTIPLE)
