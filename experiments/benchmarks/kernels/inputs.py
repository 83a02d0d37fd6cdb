"""Arrays to measure on, made on the device, several sets of them, so that none is found in a cache.

Nothing is zero: products run faster on zeros. Rows of a cache differ by a factor for each of their channels, so that
making a large cache costs little more than writing it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.kernels.shapes import LISTED, PARTS, KernelShape, lists
from pallas_kernels.block_sparse_attention.reference import block_sparse_attention as plain_block_sparse_attention
from pallas_kernels.decode_attention.reference import decode_attention as plain_decode_attention
from pallas_kernels.merge.reference import merge as plain_merge
from pallas_kernels.sparse_decode_attention.reference import sparse_decode_attention as plain_sparse_decode_attention

Arrays = tuple[Any, ...]

ROTATED_BYTES = 256 << 20  # more than the caches of processors and accelerators hold
MOST_SETS = 128


def random_key(seed: int) -> jax.Array:
    """A key of the generator that compiles fastest; how random the numbers are does not matter here."""
    return jax.random.key(seed, impl="unsafe_rbg")


def num_sets(nbytes: int, rotated: int = ROTATED_BYTES) -> int:
    """How many sets of ``nbytes`` each take turns."""
    return max(1, min(MOST_SETS, -(-rotated // nbytes)))


@functools.partial(jax.jit, static_argnames=("layout", "shape"))
def make(key: jax.Array, layout: str, shape: KernelShape) -> Arrays:
    """One set of arrays in a layout (see :mod:`experiments.benchmarks.kernels.shapes`).

    All layouts of an operation hold the same numbers for one ``key``: a prefix that is not shared is copied.

    Returns:
      states: ``((o, lse), ...)``; shared: ``q, k, v``; rows: ``q, k, v, lengths``; split: ``q, prefix_k, prefix_v, k, v,
      lengths``. ``lengths`` are committed slots: all but the last, which is the new token's. lists and pages: what the
      operation takes; all slots are in use.
    """
    query_key, *cache_keys = jax.random.split(key, 5)
    heads, width, rows = (shape.num_heads, shape.num_kv_heads), shape.head_dim, shape.batch
    if layout == "states":
        os = jax.random.normal(query_key, (PARTS, rows, heads[0], width))
        lses = 3 * jax.random.normal(cache_keys[0], (PARTS, rows, heads[0]))
        return tuple((os[part], lses[part]) for part in range(PARTS))
    dtype = jnp.dtype(shape.dtype)

    def normal(key, *size: int, mean: float = 0.0):
        """Drawn in float32: draws in two bytes are so coarse that one in 256 is zero."""
        return (mean + jax.random.normal(key, size)).astype(dtype)

    def text(key, slots: int):
        return normal(key, 1, slots, heads[1], width)

    def cache(key, slots: int):
        """Rows of one text, each times its own factors."""
        text_key, row_key = jax.random.split(key)
        return text(text_key, slots) * normal(row_key, rows, 1, heads[1], width, mean=1.0)

    def copied(prefix):
        return jnp.broadcast_to(prefix, (rows, *prefix.shape[1:]))

    if shape.operation in LISTED:
        k, v = (cache(key, shape.prefix) for key in cache_keys[2:])
        index, count = (jnp.asarray(array) for array in lists(shape))
        lengths = jnp.full(rows, shape.prefix, jnp.int32)
        if layout == "lists":
            q = normal(query_key, 1, shape.prefix, heads[0], width) * normal(
                query_key, rows, 1, heads[0], width, mean=1.0
            )
            lead = (rows, heads[0])
        else:
            q, (k, v) = normal(query_key, rows, 1, heads[0], width), (side.swapaxes(1, 2) for side in (k, v))
            lead = (rows, heads[1])
        return q, k, v, lengths, *(jnp.broadcast_to(array, (*lead, *array.shape)) for array in (index, count))
    q = normal(query_key, rows, 1, heads[0], width)
    lengths = jnp.full(rows, shape.prefix + shape.suffix - 1, jnp.int32)
    if shape.operation == "decode_attention":
        return q, *(cache(key, shape.prefix) for key in cache_keys[2:]), lengths
    prefix = [text(key, shape.prefix) for key in cache_keys[:2]]
    if layout == "shared":
        return q[:, 0], *prefix
    if shape.operation == "prefix_attention":
        return q, *map(copied, prefix), lengths
    own = [cache(key, shape.suffix) for key in cache_keys[2:]]
    if layout == "split":
        return q, *prefix, *own, lengths - shape.prefix
    return q, *(jnp.concatenate([copied(p), o], 1) for p, o in zip(prefix, own)), lengths


def expected(layout: str, arrays: Arrays) -> np.ndarray:
    """What the result ``o`` is, in float64 from the numbers as they are stored.

    Returns:
      ``[B, Hq, D]``; of prompts ``[B, T, Hq, D]``.
    """
    if layout in ("lists", "pages"):
        floats, integers = (_wide(array) for array in arrays[:3]), (np.asarray(array) for array in arrays[3:])
        scale = arrays[0].shape[-1] ** -0.5
        if layout == "pages":
            size = LISTED["sparse_decode_attention"]
            return plain_sparse_decode_attention(*floats, *integers, page_size=size, scale=scale)[0][:, 0]
        size = LISTED["block_sparse_attention"]
        return plain_block_sparse_attention(*floats, *integers, block_q=size, block_k=size, scale=scale)[0]
    if layout == "states":
        return plain_merge([(_wide(o), _wide(lse)) for o, lse in arrays])[0]
    if layout == "shared":
        q, *keys = (_wide(array) for array in arrays)
        rows = len(q)
        return _dense(q[:, None], *(np.broadcast_to(array, (rows, *array.shape[1:])) for array in keys))
    if layout == "split":
        q, prefix_k, prefix_v, own_k, own_v = (_wide(array) for array in arrays[:5])
        pairs = ((prefix_k, own_k), (prefix_v, own_v))
        return _dense(q, *(np.concatenate([np.broadcast_to(p, (len(q), *p.shape[1:])), o], 1) for p, o in pairs))
    return _dense(*(_wide(array) for array in arrays[:3]))


def _dense(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention of one new token in each row to all slots."""
    lengths, visible = np.full(len(q), k.shape[1] - 1), np.ones((len(q), 1, 1), bool)
    return plain_decode_attention(q, k, v, lengths, visible, q.shape[-1] ** -0.5)[0][:, 0]


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float64)
