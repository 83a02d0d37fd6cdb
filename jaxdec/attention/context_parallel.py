"""Attention to a prefix that several devices hold between them: a part of its tokens each.

Hydragen (Juravsky et al. 2024, arXiv 2402.05099) splits softmax attention where the prefix ends; a prefix can be split again
anywhere, so also where one device's memory ends. Device ``i`` attends to its own tokens, which gives ``o_i`` and ``lse_i``, and
the parts are merged across the mesh axis:

    m = max_i lse_i      z = sum_i e^(lse_i - m)      o = sum_i e^(lse_i - m) o_i / z      lse = m + log z

one ``pmax`` of the log-sum-exps and one ``psum`` of numerators and denominators. What travels is as large as the queries; keys
and values stay where they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxdec.typing import Array, Float, Int
from pallas_kernels import prefix_attention


def context_parallel_attention(
    queries: Float[Array, "R H E"],
    keys: Float[Array, "N P G E"],
    values: Float[Array, "N P G E"],
    *,
    length: Int[Array, "N"],
    mesh: Mesh | AbstractMesh,
    axis: str,
    query_offsets: np.ndarray | None = None,
) -> tuple[Float[Array, "R H E"], Float[Array, "R H"]]:
    """Attention of each group of query rows to its segment, whose tokens are spread over a mesh axis.

    The same as :func:`pallas_kernels.prefix_attention` of the whole arrays, up to rounding, and differentiable like it. Keys
    and values are best handed over already sharded, ``PartitionSpec(None, axis)``; others are spread first. Queries and
    results are whole on every device.

    Args:
      queries: the rows of all groups, group after group.
      keys: a segment per group; each device of the axis holds ``P / n`` tokens of it, in order.
      values: likewise.
      length: tokens of each segment, 0 to ``P``. What lies behind them is not read and may be NaN; a device may hold nothing
        else.
      mesh: the devices.
      axis: name of the mesh axis; along other axes everything is repeated.
      query_offsets: ``N + 1`` first rows of the groups; by default all groups have as many rows.

    Returns:
      Output and natural log-sum-exp, float32 at least; ``(0, -inf)`` for rows that read nothing.

    Raises:
      ValueError: an axis that the mesh does not have, or a ``P`` that it does not divide.
    """
    if axis not in mesh.shape:
        raise ValueError(f"axis must be one of the mesh's, {', '.join(map(repr, mesh.shape))}; got {axis!r}")
    devices, width = mesh.shape[axis], keys.shape[1]
    if width % devices:
        raise ValueError(f"keys must have a multiple of {devices} tokens, the size of axis {axis!r}; got {width}")
    held = width // devices

    def attend(queries, keys, values, length):
        mine = jnp.clip(length - jax.lax.axis_index(axis) * held, 0, held)
        out, lse = prefix_attention(queries, keys, values, kv_lengths=mine, query_offsets=query_offsets)
        return merge_across(out, lse, axis)

    whole, spread = PartitionSpec(), PartitionSpec(None, axis)
    # The loops of prefix_attention begin with constants, which vary over no axis: check_vma would refuse them.
    return jax.shard_map(
        attend, mesh=mesh, in_specs=(whole, spread, spread, whole), out_specs=(whole, whole), check_vma=False
    )(queries, keys, values, length)


def merge_across(
    out: Float[Array, "R H E"], lse: Float[Array, "R H"], axis: str
) -> tuple[Float[Array, "R H E"], Float[Array, "R H"]]:
    """Merge the attention states that the devices of a mesh axis have; for use inside ``jax.shard_map``.

    Args:
      out: of this device's keys.
      lse: their log-sum-exp, ``-inf`` where it has none.
      axis: name of the mesh axis.
    """
    top = jax.lax.pmax(jax.lax.stop_gradient(lse), axis)  # cancels out of both results, so it needs no gradient
    top = jnp.where(top == -jnp.inf, 0, top)  # -inf - -inf is NaN
    weight = jnp.exp(lse - top)
    numerator, total = jax.lax.psum((weight[..., None] * out, weight), axis)
    divisor = jnp.where(total == 0, 1, total)
    return numerator / divisor[..., None], jnp.where(total == 0, -jnp.inf, top + jnp.log(divisor))
