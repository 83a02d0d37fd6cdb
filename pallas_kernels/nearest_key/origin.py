"""What the backends share: codebooks seen from one of their keys, and the distance to a key that was found."""

import jax
import jax.numpy as jnp


def seen_from_a_key(
    queries: jax.Array, keys: jax.Array, used: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Subtract the first key in use from queries and keys.

    One of the keys, and not their mean, so that what was exact stays exact: ties among integers are still ties.

    Args:
      queries: ``[..., N, E]``.
      keys: ``[..., K, E]``.
      used: ``bool[..., K]`` or None.

    Returns:
      Queries, keys, and ``-|k|^2 / 2`` by key, ``[..., K]``, all float32 at least. Keys that are not in use are zeros with
      ``-inf``.
    """
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    queries, keys = queries.astype(dtype), keys.astype(dtype)
    if used is None:
        origin = keys[..., :1, :]
        keys = keys - origin
        return queries - origin, keys, -jnp.square(keys).sum(-1) / 2
    first = jnp.argmax(used, axis=-1)[..., None, None]
    origin = jnp.take_along_axis(keys, first, axis=-2)
    origin = jnp.where(used.any(-1)[..., None, None], origin, 0)
    keys = jnp.where(used[..., None], keys - origin, 0)
    return queries - origin, keys, jnp.where(used, -jnp.square(keys).sum(-1) / 2, -jnp.inf)


def squared_distances(queries: jax.Array, keys: jax.Array, index: jax.Array) -> jax.Array:
    """``|q - k|^2`` for the keys at ``index`` ``[C, N]``; infinite where the index is negative."""
    dtype = jnp.promote_types(queries.dtype, jnp.float32)
    found = keys[jnp.arange(keys.shape[0])[:, None], jnp.maximum(index, 0)]
    distances = jnp.square(queries.astype(dtype) - found.astype(dtype)).sum(-1)
    return jnp.where(index < 0, jnp.inf, distances)
