"""The merge in jax. There is no kernel: it is elementwise, and XLA fuses it with what is around it into one pass."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp


@jax.jit
def merge(parts: Sequence[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """See :func:`pallas_kernels.merge`."""
    dtype = jnp.promote_types(jnp.result_type(*(array for part in parts for array in part)), jnp.float32)
    lses = [lse.astype(dtype) for _, lse in parts]
    top = jax.lax.stop_gradient(jnp.stack(lses).max(0))  # cancels out of both results, so it needs no gradient
    top = jnp.where(top == -jnp.inf, 0, top)  # -inf - -inf is NaN
    weights = [jnp.exp(lse - top) for lse in lses]
    total = functools.reduce(jnp.add, weights)
    divisor = jnp.where(total == 0, 1, total)
    shares = [(weight / divisor)[..., None] for weight in weights]
    # What an empty part holds beside its -inf is not read: 0 * NaN is NaN.
    terms = [jnp.where(share == 0, 0, o.astype(dtype)) * share for (o, _), share in zip(parts, shares)]
    return functools.reduce(jnp.add, terms), jnp.where(total == 0, -jnp.inf, top + jnp.log(divisor))
