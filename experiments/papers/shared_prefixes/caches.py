"""Caches with random entries, as they are with sharing and as they are without: what a step has to read, and no prefill.

What attention costs does not depend on what the entries are. The same entries in both layouts must give the same result.
"""

import jax.numpy as jnp
import numpy as np

from jaxdec.cache import ContiguousCache, PrefixLevel, SharedPrefixCache


def random_shared(
    sizes: tuple[int, int, int], batch: int, prefix: int, suffix: int, room: int = 1, seed: int = 0
) -> SharedPrefixCache:
    """A cache of one prefix, float32.

    Args:
      sizes: layers, key/value heads, width of a head.
      batch: rows.
      prefix: tokens that all rows share.
      suffix: tokens of each row's own.
      room: slots behind them, at least.
      seed: of the entries.
    """
    layers, heads, width = sizes
    rng = np.random.default_rng(seed)

    def entries(*shape: int) -> tuple[jnp.ndarray, ...]:
        return tuple(jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(layers))

    own = ContiguousCache.create(
        num_layers=layers, batch_size=batch, capacity=suffix + room, num_kv_heads=heads, head_dim=width, dtype="float32"
    )
    shape = own.keys[0].shape
    own = own.replace(keys=entries(*shape), values=entries(*shape), length=jnp.full(batch, suffix, jnp.int32))
    keys, values = entries(1, prefix, heads, width), entries(1, prefix, heads, width)
    return SharedPrefixCache((PrefixLevel(keys, values, jnp.array([prefix], jnp.int32), ((0, batch),)),), own)


def copied(shared: SharedPrefixCache, capacity: int) -> ContiguousCache:
    """The same entries with every row's text in one piece, as :meth:`SharedPrefixCache.unshared` gives them.

    Args:
      shared: of one prefix.
      capacity: slots per row; one for all prefixes, so that one program serves them all.
    """
    (level,), own = shared.levels, shared.own
    prefix, kept = level.keys[0].shape[1], own.capacity
    batch, heads, _, width = own.keys[0].shape
    empty = ContiguousCache.create(
        num_layers=len(own.keys),
        batch_size=batch,
        capacity=max(capacity, prefix + kept),
        num_kv_heads=heads,
        head_dim=width,
        dtype=own.keys[0].dtype,
    )

    def joined(buffer, before, behind):
        whole = np.array(buffer)
        whole[:, :, :prefix] = np.swapaxes(np.asarray(before), 1, 2)
        whole[:, :, prefix : prefix + kept] = behind
        return jnp.asarray(whole)

    return empty.replace(
        keys=tuple(map(joined, empty.keys, level.keys, own.keys)),
        values=tuple(map(joined, empty.values, level.values, own.values)),
        length=shared.length,
    )


def tokens_held(cache: ContiguousCache | SharedPrefixCache) -> int:
    """Tokens whose keys and values a cache keeps, each time that it keeps them."""
    if isinstance(cache, ContiguousCache):
        return int(cache.length.sum())
    return int(cache.own.length.sum()) + sum(int(level.length.sum()) for level in cache.levels)


def formula(batch: int, prefix: int, suffix: int) -> float:
    """``(P + b S) / (b (P + S))``: tokens held, and read by a step, with sharing, over those without."""
    return (prefix + batch * suffix) / (batch * (prefix + suffix))
