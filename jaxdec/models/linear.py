"""The one matrix product of the models, written in the form that is fastest for the number of rows."""

import jax
import jax.numpy as jnp

from jaxdec.models.int8 import Int8Matrix, int8_product
from jaxdec.typing import Array, Float

FEW_ROWS = 96
CONTRACT_LAST = (((1,), (1,)), ((), ()))


def linear(
    x: Float[Array, "*rows I"], weight: Float[Array, "O I"] | Int8Matrix, row_tile: int = 1
) -> Float[Array, "*rows O"]:
    """``x @ weight.T`` with the inputs rounded to the type of ``weight``; accumulated and returned in float32 at least.

    Args:
      x: inputs; the leading axes are rows.
      weight: stored (out, in), the order of Hugging Face checkpoints; an :class:`Int8Matrix` multiplies in integers, and
        needs no tile.
      row_tile: pad the rows to a multiple of this. The product of one row is then computed the same way, to the last
        bit, whether it comes alone or among up to ``row_tile`` others: decoding one token and verifying several round
        alike. It costs the time of ``row_tile`` rows.
    """
    if isinstance(weight, Int8Matrix):
        return int8_product(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], weight.shape[0])
    rows = x.reshape(-1, x.shape[-1]).astype(weight.dtype)
    num_rows = rows.shape[0]
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and weight.dtype == jnp.bfloat16:
        row_tile = max(row_tile, 2)  # one bfloat16 row takes a scalar path on CPU, ten times slower than two
    few = on_cpu and weight.dtype != jnp.bfloat16 and 1 < max(num_rows, row_tile) <= FEW_ROWS
    padded = -(-num_rows // row_tile) * row_tile
    if few:
        padded = packed_rows(padded)
    rows = jnp.pad(rows, ((0, padded - num_rows), (0, 0)))
    accumulate = jnp.promote_types(weight.dtype, jnp.float32)
    if few:
        # W x^T is up to three times faster than x W^T for a few rows. XLA would fold the transposes back; the barrier
        # prevents it.
        product = jax.lax.dot_general(weight, rows, CONTRACT_LAST, preferred_element_type=accumulate)
        product = jax.lax.optimization_barrier(product).T
    else:
        product = jax.lax.dot_general(rows, weight, CONTRACT_LAST, preferred_element_type=accumulate)
    return product[:num_rows].reshape(*x.shape[:-1], weight.shape[0])


def packed_rows(rows: int) -> int:
    """Rows that the matrix kernels on CPU pack without a remainder: 16 rows take less time than 9."""
    if rows > 32:
        return -(-rows // 16) * 16
    return max(4, 1 << (rows - 1).bit_length())
