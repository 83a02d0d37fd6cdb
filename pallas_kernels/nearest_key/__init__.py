"""The nearest key of each query: vector quantisation, one codebook beside the other.

As in the Discrete Key-Value Bottleneck (Traeuble et al. 2023, arXiv 2207.11240) and in VQ-VAE (van den Oord et al. 2017, arXiv
1711.00937). The square of the query is the same for all keys and takes no part in the comparison:

    argmin_j |q - k_j|^2 = argmax_j (q . k_j - |k_j|^2 / 2)

so a block of keys costs one matrix product, and only the best score and its place stay from block to block: the distances of
all pairs, ``[C, N, K]``, are never in memory. Adding one vector to all queries and keys of a codebook changes nothing, and the
product loses digits if that vector is large; so both are first seen from the first key in use.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import check_float, check_rank, concrete
from pallas_kernels.backends import dispatch
from pallas_kernels.nearest_key import tpu, xla
from pallas_kernels.nearest_key.origin import squared_distances

BACKENDS = {"tpu": tpu.nearest_key, "xla": xla.nearest_key}


def nearest_key(
    queries: jax.Array, keys: jax.Array, used: jax.Array | None = None, *, implementation: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Find the nearest key of each query within its codebook.

    Products are float32 at least. Of keys at equal distances the first is taken, as far as rounding tells them apart: it
    always does so where the scores are exact, as among small integers. The distance is differentiable, the place is not.

    Args:
      queries: ``[C, N, E]``, finite.
      keys: ``[C, K, E]``, of the same type; those in use must be finite, the others may hold NaN.
      used: ``bool[C, K]``, which keys may be found; by default all.
      implementation: ``"tpu"`` or ``"xla"``, or None for the first that fits the device and the arguments.

    Returns:
      The places ``int32[C, N]``, and the squared distances ``[C, N]``, float32 (float64 for float64 input), from the
      difference of query and key. A codebook without a key in use gives ``(-1, inf)``: it is an error where ``used`` is
      known, and cannot be one while jax traces.

    Raises:
      TypeError: types that differ or are not floats; ``used`` that is not bool.
      ValueError: shapes that do not fit or are empty; a codebook of which no key is in use.
      NotImplementedError: the implementation asked for does not take these arguments.
    """
    queries, keys = jnp.asarray(queries), jnp.asarray(keys)
    for name, array, dimensions in (("queries", queries, "C N E"), ("keys", keys, "C K E")):
        check_float(name, array)
        check_rank(name, array, dimensions)
        if min(array.shape) == 0:
            raise ValueError(f"{name} must have no empty axis; got {list(array.shape)}")
    if queries.dtype != keys.dtype:
        raise TypeError(f"queries and keys must have one type; got queries {queries.dtype}, keys {keys.dtype}")
    for axis, name in ((0, "codebooks"), (2, "numbers in a key")):
        if queries.shape[axis] != keys.shape[axis]:
            raise ValueError(f"queries must have the {keys.shape[axis]} {name} of keys; got {queries.shape[axis]}")
    if used is not None:
        used = _checked(used, keys.shape[:2])
    index = dispatch(
        "nearest_key", BACKENDS, implementation, jax.lax.stop_gradient(queries), jax.lax.stop_gradient(keys), used
    )
    return index, squared_distances(queries, keys, index)


def _checked(used: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if jnp.result_type(used) != jnp.bool_:
        raise TypeError(f"used must be bool; got {jnp.result_type(used)}")
    if jnp.shape(used) != shape:
        raise ValueError(f"used must have shape {list(shape)}; got {list(jnp.shape(used))}")
    known = concrete(used)
    if known is not None and not known.any(1).all():
        raise ValueError(f"used must have a key in use in every codebook; got none in codebook {known.any(1).argmin()}")
    return jnp.asarray(used)
