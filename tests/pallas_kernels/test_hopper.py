"""The kernels for Hopper without one: interpreted, watched for races and unwritten memory; and lowered at real shapes.

The interpreter of GPU kernels is that of jax 0.12. Before it, the numbers are not checked here, only that everything lowers.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import block_sparse_attention, decode_attention, prefix_attention
from pallas_kernels.block_sparse_attention.shapes import SHAPES as BLOCK_SPARSE_SHAPES
from pallas_kernels.block_sparse_attention.shapes import BlockSparseShape
from pallas_kernels.decode_attention.shapes import SHAPES as DECODE_SHAPES
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.prefix_attention.shapes import ODD, PrefixShape
from pallas_kernels.prefix_attention.shapes import SHAPES as PREFIX_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SHAPES as SPARSE_DECODE_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SparseDecodeShape
from tests.pallas_kernels.arrays import (
    TOLERANCE,
    assert_states,
    decode_inputs,
    expected_decode,
    expected_prefix,
    expected_sparse,
    prefix_inputs,
    sparse,
    sparse_arguments,
    tree_mask,
)

PREFIX = {
    "one of each": ODD["one of each"],
    "llama-3-8b": PREFIX_SHAPES["llama-3-8b"].scaled(rows=3, keys=130),
    "ragged": PrefixShape((3, 0, 5), (17, 9, 260), 6, 2, 64),
    "two warpgroups, slots used again": PrefixShape((45,), (330,), 2, 1, 128),
}
DECODE = {
    "smollm2-135m": DecodeShape(3, 1, 300, 9, 3, 64),
    "a tree": DecodeShape(2, 4, 70, 5, 1, 128),
    "two tiles": DecodeShape(1, 80, 200, 2, 1, 64),
}
SPARSE = {
    "several blocks a step": BlockSparseShape(1, 100, 2, 1, 64, 32, 16, 7),
    "several steps a block, two warpgroups": BlockSparseShape(1, 150, 2, 1, 128, 80, 128, 2),
    "three heads a group, a block and one": BlockSparseShape(2, 65, 6, 2, 64, 32, 64, 2),
    "two choosers a key/value head": SparseDecodeShape(3, 2, 20, 8, 2, 4, 64, 16, 11),
    "two ranges, slots used again": SparseDecodeShape(2, 1, 70, 3, 1, 1, 128, 16, 60),
}
REAL_SPARSE = BLOCK_SPARSE_SHAPES | {f"pages {name}": shape for name, shape in SPARSE_DECODE_SHAPES.items()}
interpretable = pytest.mark.skipif(
    not hasattr(plgpu, "force_gpu_interpret_mode"),
    reason=f"jax {jax.__version__} does not interpret kernels of Mosaic GPU; jax 0.12 does",
)


ONE_CORE = len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else os.cpu_count() == 1
several_cores = pytest.mark.skipif(ONE_CORE, reason="the interpreter's threads wait for one another on a single core")


def interpreted(call, *arrays):
    """Run under the interpreter of GPU kernels, which raises on a race."""
    watch = plgpu.InterpretGPUParams(detect_races=True, uninitialized_memory="nan")
    with plgpu.force_gpu_interpret_mode(watch):
        return jax.block_until_ready(jax.jit(call)(*arrays))


@interpretable
@pytest.mark.parametrize("name", PREFIX)
def test_prefix_attention_equals_reference(name):
    arrays, groups = prefix_inputs(PREFIX[name], "bfloat16")
    call = lambda lengths, offsets: prefix_attention(  # noqa: E731
        *arrays, kv_lengths=lengths, query_offsets=offsets, implementation="hopper"
    )
    got = interpreted(call, groups["kv_lengths"], jnp.asarray(groups["query_offsets"]))
    assert_states(got, expected_prefix(arrays, groups), TOLERANCE["bfloat16"])


@interpretable
@pytest.mark.parametrize("num_splits", [None, 3])
@pytest.mark.parametrize("name", DECODE)
def test_decode_attention_equals_reference(name, num_splits):
    inputs = decode_inputs(DECODE[name], "bfloat16")
    visible = tree_mask(*inputs[0].shape[:2])
    call = lambda *inputs: decode_attention(  # noqa: E731
        *inputs, visible=visible, num_splits=num_splits, implementation="hopper"
    )
    assert_states(interpreted(call, *inputs), expected_decode(*inputs, visible), TOLERANCE["bfloat16"])


@interpretable
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[several_cores] if isinstance(SPARSE[name], SparseDecodeShape) else [])
        for name in SPARSE
    ],
)
def test_sparse_attention_equals_reference(name):
    operation, arrays, blocks = sparse(SPARSE[name], "bfloat16")
    call = lambda *arrays: operation(*arrays, **blocks, implementation="hopper")  # noqa: E731
    # Of few keys, weights are large, and they are rounded to the type of the values.
    assert_states(interpreted(call, *arrays), expected_sparse(arrays, blocks), 4 * TOLERANCE["bfloat16"])


def lower(call, *arrays):
    """Lower for CUDA on whatever machine this is."""
    text = jax.export.export(jax.jit(call), platforms=["cuda"])(*arrays).mlir_module()
    assert "mosaic_gpu" in text


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", PREFIX_SHAPES)
def test_prefix_attention_lowers_at_real_shapes(name, dtype):
    shape, integers = PREFIX_SHAPES[name], np.int32
    kv = jax.ShapeDtypeStruct((len(shape.keys), max(shape.keys), shape.num_kv_heads, shape.head_dim), dtype)
    lower(
        lambda q, k, v, lengths, offsets: prefix_attention(
            q, k, v, kv_lengths=lengths, query_offsets=offsets, implementation="hopper"
        ),
        jax.ShapeDtypeStruct((sum(shape.rows), shape.num_heads, shape.head_dim), dtype),
        kv,
        kv,
        jax.ShapeDtypeStruct((len(shape.keys),), integers),
        jax.ShapeDtypeStruct((len(shape.keys) + 1,), integers),
    )


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", DECODE_SHAPES)
def test_decode_attention_lowers_at_real_shapes(name, dtype):
    shape = DECODE_SHAPES[name]
    kv = jax.ShapeDtypeStruct((shape.batch, shape.slots, shape.num_kv_heads, shape.head_dim), dtype)
    lower(
        lambda *arrays: decode_attention(*arrays, implementation="hopper"),
        jax.ShapeDtypeStruct((shape.batch, shape.tokens, shape.num_heads, shape.head_dim), dtype),
        kv,
        kv,
        jax.ShapeDtypeStruct((shape.batch,), np.int32),
    )


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", REAL_SPARSE)
def test_sparse_attention_lowers_at_real_shapes(name, dtype):
    operation, arrays, blocks = sparse_arguments(REAL_SPARSE[name], dtype)
    lower(lambda *arrays: operation(*arrays, **blocks, implementation="hopper"), *arrays)


Q, K = jnp.zeros((4, 2, 64), "bfloat16"), jnp.zeros((1, 8, 2, 64), "bfloat16")


@pytest.mark.parametrize(
    ("q", "k", "reason"),
    [
        (Q.astype("float32"), K.astype("float32"), "hopper: takes bfloat16 and float16, got float32"),
        (Q[..., :32], K[..., :32], "hopper: takes heads of width 64 and 128, got 32"),
        (Q[:0], K, "hopper: takes at least one row, got none"),
        (jnp.zeros((1, 129, 64), "bfloat16"), K[:, :, :1], "hopper: takes at most 128 query heads .*, got 129"),
    ],
)
def test_refuses_with_the_reason(q, k, reason):
    with pytest.raises(NotImplementedError, match=f"no implementation of prefix_attention takes .*{reason}"):
        prefix_attention(q, k, k, implementation="hopper")


@pytest.mark.parametrize(
    ("block_q", "block_k", "reason"),
    [
        (129, 16, "hopper: takes at most 128 query rows with one list, got 129"),
        (16, 8, "hopper: takes blocks of a multiple of 128 keys, or of 16, 32, 64, got 8"),
        (16, 48, "hopper: takes blocks of a multiple of 128 keys, or of 16, 32, 64, got 48"),
    ],
)
def test_sparse_attention_refuses_with_the_reason(block_q, block_k, reason):
    q, index = jnp.zeros((1, 9, 2, 64), "bfloat16"), jnp.zeros((1, 2, 1, 1), int)
    with pytest.raises(NotImplementedError, match=f"no implementation of block_sparse_attention takes .*{reason}"):
        block_sparse_attention(
            q, q, q, jnp.array([9]), index, index[..., 0], block_q=block_q, block_k=block_k, implementation="hopper"
        )
