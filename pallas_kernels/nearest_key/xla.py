"""The nearest key in jax: codebook by codebook, and block by block of its keys.

On processors a product with a batch dimension is many times slower than plain ones, so codebooks come one after the other.
The scores of a block are ``[block, N]``, keys first: reducing over the first axis is elementwise work on rows, and vectorises,
where reducing each row to one number does not. Their largest comes from one pass, and its place from a second one, over scores
that are still in the processor's cache: ``argmax``, which asks for both at once, takes several times as long.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.nearest_key.origin import seen_from_a_key

SCORES_OF_A_BLOCK = 1 << 20
"""Four megabytes of float32: smaller blocks took longer where they were tried, as each is a few calls more."""
FAR = -1e30
"""The score of a key that is not in use: finite, since products on accelerators are sums of products of parts, and a part of
infinity is NaN."""


@jax.jit
def nearest_key(queries: jax.Array, keys: jax.Array, used: jax.Array | None) -> jax.Array:
    """The places of :func:`pallas_kernels.nearest_key`."""
    codebooks = (queries, keys) if used is None else (queries, keys, used)
    return jax.lax.map(lambda codebook: _of_one(*codebook), codebooks)


def _of_one(queries: jax.Array, keys: jax.Array, used: jax.Array | None = None) -> jax.Array:
    """One codebook: ``[N, E]``, ``[K, E]``, ``bool[K]`` to ``int32[N]``."""
    queries, keys, bias = seen_from_a_key(queries, keys, used)
    num_queries, num_keys = queries.shape[0], keys.shape[0]
    blocks = -(-num_keys // max(SCORES_OF_A_BLOCK // num_queries, 64))
    block = -(-num_keys // blocks)
    # One more number in each key and a one in each query: the product is then the score.
    keys = jnp.concatenate([keys, jnp.maximum(bias, FAR)[:, None]], axis=1)
    keys = jnp.pad(keys, ((0, blocks * block - num_keys), (0, 0)))
    keys = keys.at[num_keys:, -1].set(FAR).reshape(blocks, block, -1)
    queries = jnp.concatenate([queries.T, jnp.ones_like(queries[:, 0])[None]])
    start = jnp.full(num_queries, FAR / 2, queries.dtype), jnp.full(num_queries, -1, jnp.int32)
    numbered = jnp.arange(blocks, dtype=jnp.int32), keys
    (_, index), _ = jax.lax.scan(functools.partial(_better, queries), start, numbered)
    return index


def _better(queries: jax.Array, best: tuple[jax.Array, jax.Array], numbered: tuple[jax.Array, jax.Array]) -> Any:
    """The best of what was found before and of one block; earlier keys win ties."""
    (score, index), (number, keys) = best, numbered
    scores = jnp.matmul(keys, queries, precision=jax.lax.Precision.HIGHEST)
    top = scores.max(axis=0)
    rows = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    place = jnp.where(scores == top, rows, keys.shape[0]).min(axis=0)
    better = top > score
    return (jnp.where(better, top, score), jnp.where(better, number * keys.shape[0] + place, index)), None
