"""Attention of new tokens to the committed slots on TPU: a tile per row through :mod:`pallas_kernels.tiled_attention.tpu`."""

import jax
import jax.numpy as jnp

from pallas_kernels.backends import with_gradient_of
from pallas_kernels.decode_attention import xla
from pallas_kernels.merge.xla import merge
from pallas_kernels.tiled_attention.rows import fold_heads, unfold_heads
from pallas_kernels.tiled_attention.tpu import ROW_MULTIPLE, attend_tiles, check_supported

MOST_ROWS = 512


def attend_committed(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    num_splits: int | None,
    scale: float,
    page_table: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of ``q [B, T, Hq, D]`` to the first ``lengths[b]`` slots.

    Without ``num_splits`` there is one range: a core works through its blocks in order anyway. With a page table, a page is a
    block. The gradient is that of the XLA backend.
    """
    check_supported(q)
    batch, tokens, num_heads = q.shape[:3]
    num_kv_heads = k.shape[2]
    rows = tokens * num_heads // num_kv_heads
    if rows > MOST_ROWS:
        raise NotImplementedError(
            f"takes at most {MOST_ROWS} new tokens times query heads per key/value head, got {rows}"
        )

    def kernel(floats, integers):
        q, k, v = floats
        lengths, *pages = integers
        folded = jnp.pad(fold_heads(q, num_kv_heads), ((0, 0), (0, 0), (0, -rows % ROW_MULTIPLE), (0, 0)))
        row = jnp.arange(batch, dtype=jnp.int32)
        o, lse = attend_tiles(folded, k, v, row, lengths, *pages, num_splits=num_splits or 1, scale=scale)
        o, lse = merge([(o[:, part, :, :rows], lse[:, part, :, :rows]) for part in range(o.shape[1])])
        return unfold_heads(o, tokens), unfold_heads(lse[..., None], tokens)[..., 0]

    def plain(floats, integers):
        q, k, v = floats
        lengths, *pages = integers
        return xla.attend_committed(q, k, v, lengths, num_splits, scale, *pages)

    return with_gradient_of(plain, kernel)((q, k, v), (lengths,) if page_table is None else (lengths, page_table))
