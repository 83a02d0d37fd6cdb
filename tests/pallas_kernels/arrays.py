"""Inputs of attention with NaN wherever nothing may be read, and comparison with the references."""

import jax.numpy as jnp
import numpy as np

from pallas_kernels.decode_attention.reference import decode_attention as plain_decode_attention
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.prefix_attention.reference import prefix_attention as plain_prefix_attention
from pallas_kernels.prefix_attention.shapes import PrefixShape

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "float64": 1e-12}


def normal(seed: int, *shapes: tuple[int, ...], dtype: str = "float32"):
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def prefix_inputs(shape: PrefixShape, dtype: str = "float32", seed: int = 0, spare: int = 3):
    """``(q, k, v)`` and ``{kv_lengths, query_offsets}``; ``spare`` slots of NaN behind the longest group."""
    capacity = max(shape.keys) + spare
    kv = (len(shape.keys), capacity, shape.num_kv_heads, shape.head_dim)
    q, k, v = normal(seed, (sum(shape.rows), shape.num_heads, shape.head_dim), kv, kv, dtype=dtype)
    unused = np.arange(capacity) >= np.asarray(shape.keys)[:, None]
    k, v = (jnp.where(unused[..., None, None], jnp.nan, array) for array in (k, v))
    offsets = np.cumsum([0, *shape.rows]).astype(np.int32)
    return (q, k, v), {"kv_lengths": jnp.asarray(shape.keys, jnp.int32), "query_offsets": offsets}


def decode_inputs(shape: DecodeShape, dtype: str = "float32", seed: int = 0):
    """``(q, k, v, lengths)``: the first row is full, the second empty, the others anywhere; NaN behind the new tokens."""
    kv = (shape.batch, shape.slots, shape.num_kv_heads, shape.head_dim)
    q, k, v = normal(seed, (shape.batch, shape.tokens, shape.num_heads, shape.head_dim), kv, kv, dtype=dtype)
    most = shape.slots - shape.tokens
    lengths = np.random.default_rng(seed).integers(0, most + 1, shape.batch)
    lengths[:2] = [most, 0][: shape.batch]
    unused = np.arange(shape.slots) >= (lengths + shape.tokens)[:, None]
    k, v = (jnp.where(unused[..., None, None], jnp.nan, array) for array in (k, v))
    return q, k, v, jnp.asarray(lengths, jnp.int32)


def tree_mask(batch: int, tokens: int, seed: int = 0) -> np.ndarray:
    """A random draft tree in each row: every token sees itself and its ancestors."""
    generator = np.random.default_rng(seed)
    visible = np.zeros((batch, tokens, tokens), bool)
    for row in range(batch):
        for token in range(tokens):
            if token:
                visible[row, token] = visible[row, generator.integers(token)]
            visible[row, token, token] = True
    return visible


def expected_prefix(arrays, groups, scale=None):
    """What the reference says."""
    return plain_prefix_attention(*map(wide, arrays), **groups, scale=scale or arrays[0].shape[-1] ** -0.5)


def expected_decode(q, k, v, lengths, visible=None, scale=None):
    """What the reference says; causal without ``visible``."""
    if visible is None:
        visible = np.broadcast_to(np.tri(q.shape[1], dtype=bool), (len(q), q.shape[1], q.shape[1]))
    return plain_decode_attention(wide(q), wide(k), wide(v), np.asarray(lengths), visible, scale or q.shape[-1] ** -0.5)


def assert_states(got, expected, tolerance):
    """Outputs and finite log-sum-exps agree, and the same entries are empty: exactly ``(0, -inf)``."""
    (o, lse), (o_expected, lse_expected) = ((wide(a), wide(b)) for a, b in (got, expected))
    empty = lse_expected == -np.inf
    np.testing.assert_array_equal(lse == -np.inf, empty)
    np.testing.assert_array_equal(o[empty], 0)
    np.testing.assert_allclose(o, o_expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(lse[~empty], lse_expected[~empty], rtol=tolerance, atol=tolerance)


def wide(array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)
