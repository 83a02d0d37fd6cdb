"""Inputs of attention with NaN wherever nothing may be read, and comparison with the references."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import block_sparse_attention, sparse_decode_attention
from pallas_kernels.block_sparse_attention.reference import block_sparse_attention as plain_block_sparse_attention
from pallas_kernels.block_sparse_attention.shapes import BlockSparseShape
from pallas_kernels.decode_attention.reference import decode_attention as plain_decode_attention
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.prefix_attention.reference import prefix_attention as plain_prefix_attention
from pallas_kernels.prefix_attention.shapes import PrefixShape
from pallas_kernels.sparse_decode_attention.reference import sparse_decode_attention as plain_sparse_decode_attention
from pallas_kernels.sparse_decode_attention.shapes import SparseDecodeShape

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


def lists(generator, lead: tuple[int, ...], places: int, most: int):
    """Lists of some of ``places``, in any order, and how many of each are read; numbers that are no places behind them.

    Of the first row and head, the last list is full and the first, if there are several, empty; the others are of any length.
    """
    index = generator.permuted(np.broadcast_to(np.arange(places), (*lead, places)), axis=-1)[..., :most]
    index = np.pad(index, [(0, 0)] * len(lead) + [(0, most - index.shape[-1])])
    count = generator.integers(0, min(places, most) + 1, lead)
    count[(0,) * len(lead)] = 0
    count[(0,) * (len(lead) - 1)][-1] = min(places, most)
    nowhere = generator.choice([-1, places, 10**9], index.shape)
    return np.where(np.arange(most) < count[..., None], index, nowhere).astype(np.int32), count.astype(np.int32)


def block_sparse_inputs(shape: BlockSparseShape, dtype: str = "float32", seed: int = 0, spare: int = 3):
    """``(q, k, v, lengths, block_index, num_blocks)`` and ``{block_q, block_k}``.

    The first prompt is full, the second empty, the others anywhere; NaN behind them and in ``spare`` slots of keys.
    """
    kv = (shape.batch, shape.tokens + spare, shape.num_kv_heads, shape.head_dim)
    q, k, v = normal(seed, (shape.batch, shape.tokens, shape.num_heads, shape.head_dim), kv, kv, dtype=dtype)
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, shape.tokens + 1, shape.batch)
    lengths[:2] = [shape.tokens, 0][: shape.batch]
    q, k, v = (
        jnp.where((np.arange(side.shape[1]) >= lengths[:, None])[..., None, None], jnp.nan, side) for side in (q, k, v)
    )
    places = -(-kv[1] // shape.block_k)
    listed = lists(generator, (shape.batch, shape.num_heads, shape.num_blocks), places, shape.most)
    arrays = (q, k, v, jnp.asarray(lengths, jnp.int32), *map(jnp.asarray, listed))
    return arrays, {"block_q": shape.block_q, "block_k": shape.block_k}


def sparse_decode_inputs(shape: SparseDecodeShape, dtype: str = "float32", seed: int = 0):
    """``(q, k, v, lengths, page_index, num_pages)`` and ``{page_size}``; NaN behind the committed slots."""
    kv = (shape.batch, shape.num_kv_heads, shape.pages * shape.page_size, shape.head_dim)
    q, k, v = normal(seed, (shape.batch, shape.tokens, shape.num_heads, shape.head_dim), kv, kv, dtype=dtype)
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, kv[2] + 1, shape.batch)
    lengths[:2] = [kv[2], 0][: shape.batch]
    unused = (np.arange(kv[2]) >= lengths[:, None])[:, None, :, None]
    k, v = (jnp.where(unused, jnp.nan, side) for side in (k, v))
    listed = lists(generator, (shape.batch, shape.choosers, shape.tokens), shape.pages, shape.most)
    return (q, k, v, jnp.asarray(lengths, jnp.int32), *map(jnp.asarray, listed)), {"page_size": shape.page_size}


def sparse(shape: BlockSparseShape | SparseDecodeShape, dtype: str = "float32", seed: int = 0):
    """The sparse operation of a shape, its inputs, and the sizes of its blocks."""
    if isinstance(shape, SparseDecodeShape):
        return sparse_decode_attention, *sparse_decode_inputs(shape, dtype, seed)
    return block_sparse_attention, *block_sparse_inputs(shape, dtype, seed)


def sparse_arguments(shape: BlockSparseShape | SparseDecodeShape, dtype: str):
    """The same with shapes and types alone."""
    q = (shape.batch, shape.tokens, shape.num_heads, shape.head_dim)
    if isinstance(shape, SparseDecodeShape):
        kv = (shape.batch, shape.num_kv_heads, shape.pages * shape.page_size, shape.head_dim)
        lead, blocks = (shape.batch, shape.choosers, shape.tokens), {"page_size": shape.page_size}
    else:
        kv = (shape.batch, shape.tokens, shape.num_kv_heads, shape.head_dim)
        lead = (shape.batch, shape.num_heads, shape.num_blocks)
        blocks = {"block_q": shape.block_q, "block_k": shape.block_k}
    arrays = [
        *(jax.ShapeDtypeStruct(array, dtype) for array in (q, kv, kv)),
        *(jax.ShapeDtypeStruct(array, np.int32) for array in ((shape.batch,), (*lead, shape.most), lead)),
    ]
    return sparse_decode_attention if "page_size" in blocks else block_sparse_attention, arrays, blocks


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


def expected_sparse(arrays, blocks, scale=None):
    """What the reference of the sparse operation says whose blocks these are."""
    plain = plain_sparse_decode_attention if "page_size" in blocks else plain_block_sparse_attention
    floats, integers = map(wide, arrays[:3]), map(np.asarray, arrays[3:])
    return plain(*floats, *integers, **blocks, scale=scale or arrays[0].shape[-1] ** -0.5)


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
