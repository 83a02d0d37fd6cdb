"""Attention of many queries to keys and values that they share.

Hydragen: High-Throughput LLM Inference with Shared Prefixes. Juravsky et al., 2024, arXiv 2402.05099.

A batch that shares a prefix splits its softmax at the prefix' end. The part over the prefix, for all rows ``i`` of a group,

    lse_i = log sum_j e^(scale q_i k_j)        o_i = sum_j e^(scale q_i k_j - lse_i) v_j        j = 1 .. P

is a product of matrices that reads the prefix once, where decoding row by row reads it once per row. The part over what each
row has of its own is :func:`pallas_kernels.decode_attention`, and :func:`pallas_kernels.merge` puts the two together.

Nothing here is causal: the prefix lies before all queries.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import check_integers, check_offsets, check_qkv, check_rank, check_scale, concrete
from pallas_kernels.backends import dispatch
from pallas_kernels.prefix_attention import hopper, tpu, triton, xla

BACKENDS = {
    "tpu": tpu.prefix_attention,
    "hopper": hopper.prefix_attention,
    "triton": triton.prefix_attention,
    "xla": xla.prefix_attention,
}


def prefix_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    kv_lengths: jax.Array | None = None,
    query_offsets: jax.Array | np.ndarray | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each group of query rows to the group's keys and values.

    Query head ``h`` reads key/value head ``h // (Hq / Hkv)``. Differentiable in ``q``, ``k`` and ``v``.

    Args:
      q: ``[R, Hq, D]``, the rows of all groups, group after group.
      k: ``[G, L, Hkv, D]``.
      v: ``[G, L, Hkv, D]``.
      kv_lengths: ``int32[G]``, keys in use; by default ``L``. What lies behind them is not read and may be NaN.
      query_offsets: ``int32[G + 1]``, not falling: group ``g`` has the rows ``offsets[g] .. offsets[g + 1] - 1``. Rows before
        the first offset and from the last one on belong to no group. By default all groups have ``R / G`` rows.
      scale: of the scores; by default ``D ** -0.5``.
      implementation: ``"tpu"``, ``"hopper"``, ``"triton"`` or ``"xla"``, or None for the first that fits the device and the
        arguments.

    Returns:
      ``o [R, Hq, D]`` and the natural log-sum-exp of the scores ``lse [R, Hq]``, float32 (float64 for float64 input), so that
      a merge rounds only once. ``(0, -inf)`` for rows that read nothing.

    Raises:
      TypeError: types that differ or are not floats; lengths or offsets that are not integers.
      ValueError: shapes that do not fit; values out of range, where they are known.
      NotImplementedError: the implementation asked for does not take these arguments.
    """
    q, k, v = (jnp.asarray(array) for array in (q, k, v))
    check_rank("q", q, "R Hq D")
    check_rank("k", k, "G L Hkv D")
    check_qkv(q, k, v)
    num_groups, capacity = k.shape[:2]
    if num_groups == 0:
        raise ValueError(f"k must have at least one group; got {list(k.shape)}")
    if kv_lengths is not None:
        check_integers("kv_lengths", kv_lengths, (num_groups,), 0, capacity)
        kv_lengths = jnp.asarray(kv_lengths, jnp.int32)
    if query_offsets is None:
        if q.shape[0] % num_groups:
            raise ValueError(
                f"q must have as many rows for each of k's {num_groups} groups, or query_offsets must say which row belongs "
                f"to which; got {q.shape[0]} rows"
            )
        offsets = np.arange(num_groups + 1) * (q.shape[0] // num_groups)
    else:
        check_offsets("query_offsets", query_offsets, num_groups, q.shape[0])
        known = concrete(query_offsets)
        offsets = jnp.asarray(query_offsets) if known is None else known
    scale = check_scale(scale, q.shape[-1])
    return dispatch("prefix_attention", BACKENDS, implementation, q, k, v, kv_lengths, offsets, scale)
