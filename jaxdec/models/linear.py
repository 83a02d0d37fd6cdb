"""The one matrix product of the models, written in the form that is fastest for the number of rows."""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float


def linear(x: Float[Array, "*rows I"], weight: Float[Array, "O I"], row_tile: int = 1) -> Float[Array, "*rows O"]:
    """``x @ weight.T``, accumulated in float32 at least and returned in the type of ``x``.

    Args:
      x: inputs; the leading axes are rows.
      weight: stored (out, in), the order of Hugging Face checkpoints.
      row_tile: pad the rows to a multiple of this. The product of one row is then computed the same way, to the last
        bit, whether it comes alone or among up to ``row_tile`` others: decoding one token and verifying several round
        alike. It costs the time of ``row_tile`` rows.
    """
    rows = x.reshape(-1, x.shape[-1])
    num_rows = rows.shape[0]
    if num_rows % row_tile:
        rows = jnp.pad(rows, ((0, -num_rows % row_tile), (0, 0)))
    accumulate = jnp.promote_types(x.dtype, jnp.float32)
    contract_last = (((1,), (1,)), ((), ()))
    if 1 < rows.shape[0] <= 32:
        # XLA folds the transposes of (W x^T)^T back into x W^T, which is slower for a few rows; the barrier prevents it.
        product = jax.lax.dot_general(weight, rows, contract_last, preferred_element_type=accumulate)
        product = jax.lax.optimization_barrier(product).T
    else:
        product = jax.lax.dot_general(rows, weight, contract_last, preferred_element_type=accumulate)
    return product[:num_rows].astype(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
