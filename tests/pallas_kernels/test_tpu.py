"""The TPU kernels on a processor: interpreted, watched for races and reads of memory nobody wrote; and lowered."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import block_sparse_attention, decode_attention, prefix_attention
from pallas_kernels.block_sparse_attention.shapes import ODD as ODD_BLOCK_SPARSE
from pallas_kernels.block_sparse_attention.shapes import SHAPES as BLOCK_SPARSE_SHAPES
from pallas_kernels.block_sparse_attention.shapes import BlockSparseShape
from pallas_kernels.decode_attention.shapes import SHAPES as DECODE_SHAPES
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.listed_attention import tpu as listed
from pallas_kernels.prefix_attention.shapes import ODD, PrefixShape
from pallas_kernels.prefix_attention.shapes import SHAPES as PREFIX_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import ODD as ODD_SPARSE_DECODE
from pallas_kernels.sparse_decode_attention.shapes import SHAPES as SPARSE_DECODE_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SparseDecodeShape
from pallas_kernels.tiled_attention import tpu
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
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

PREFIX = {
    "smollm2-135m": PREFIX_SHAPES["smollm2-135m"].scaled(rows=5, keys=70),
    "llama-3-8b": PREFIX_SHAPES["llama-3-8b"].scaled(rows=3, keys=40),
    "ragged": ODD["ragged"],
    "a block and one": ODD["a block and one"],
}
DECODE = {
    "smollm2-135m": DecodeShape(3, 1, 600, 9, 3, 64),
    "five heads, a tree": DecodeShape(2, 4, 70, 5, 1, 128),
}
SPARSE = {
    "prompts": BlockSparseShape(2, 65, 6, 2, 64, 32, 64, 2),
    "small blocks": BlockSparseShape(1, 100, 2, 1, 64, 32, 16, 7),
    **{f"prompts {name}": shape for name, shape in ODD_BLOCK_SPARSE.items()},
    "pages": SparseDecodeShape(3, 2, 20, 8, 2, 4, 64, 16, 11),
    **{f"pages {name}": shape for name, shape in ODD_SPARSE_DECODE.items()},
}
REAL_SPARSE = BLOCK_SPARSE_SHAPES | {f"pages {name}": shape for name, shape in SPARSE_DECODE_SHAPES.items()}
QUICK = ("small blocks", "pages")
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 128 keys, so that short texts have several."""
    monkeypatch.setattr(tpu, "MOST_KEYS", 128)
    tpu.attend_tiles.clear_cache()
    yield
    tpu.attend_tiles.clear_cache()


def interpreted(call, *arrays):
    """Run under the interpreter of TPU kernels; fails on a race."""
    watch = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    with pltpu.force_tpu_interpret_mode(watch):
        got = jax.block_until_ready(jax.jit(call)(*arrays))
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    assert not interpret_pallas_call.races.races_found
    return got


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", PREFIX)
@pytest.mark.parametrize("dtype", ["float32", SLOW("bfloat16")])
def test_prefix_attention_equals_reference(name, dtype):
    arrays, groups = prefix_inputs(PREFIX[name], dtype)
    call = lambda lengths, offsets: prefix_attention(  # noqa: E731
        *arrays, kv_lengths=lengths, query_offsets=offsets, implementation="tpu"
    )
    got = interpreted(call, groups["kv_lengths"], jnp.asarray(groups["query_offsets"]))
    assert_states(got, expected_prefix(arrays, groups), TOLERANCE[dtype])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("num_splits", [SLOW(None), 3])
@pytest.mark.parametrize("name", DECODE)
def test_decode_attention_equals_reference(name, num_splits):
    inputs = decode_inputs(DECODE[name])
    visible = tree_mask(*inputs[0].shape[:2])
    call = lambda *inputs: decode_attention(  # noqa: E731
        *inputs, visible=visible, num_splits=num_splits, implementation="tpu"
    )
    assert_states(interpreted(call, *inputs), expected_decode(*inputs, visible), TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", SLOW("bfloat16")])
@pytest.mark.parametrize("name", [name if name in QUICK else SLOW(name) for name in SPARSE])
def test_sparse_attention_equals_reference(name, dtype):
    operation, arrays, blocks = sparse(SPARSE[name], dtype)
    call = lambda *arrays: operation(*arrays, **blocks, implementation="tpu")  # noqa: E731
    # Of few keys, weights are large, and they are rounded to the type of the values.
    tolerance = TOLERANCE[dtype] if dtype == "float32" else 4 * TOLERANCE[dtype]
    assert_states(interpreted(call, *arrays), expected_sparse(arrays, blocks), tolerance)


def test_lists_that_do_not_fit_the_memory_of_scalars(monkeypatch):
    """They are worked on in several calls, the last of which is not full."""
    monkeypatch.setattr(listed, "SCALAR_BYTES", 5 * 4 * (2 + 4))  # five tiles of twelve, with two blocks each
    calls = []
    monkeypatch.setattr(
        listed, "_attend", lambda q, *rest, attend=listed._attend, **_: calls.append(q) or attend(q, *rest, **_)
    )
    listed.attend_lists.clear_cache()
    operation, arrays, blocks = sparse(BlockSparseShape(2, 48, 4, 2, 64, 32, 16, 2))
    call = lambda *arrays: operation(*arrays, **blocks, implementation="tpu")  # noqa: E731
    assert_states(interpreted(call, *arrays), expected_sparse(arrays, blocks), TOLERANCE["float32"])
    assert [q.shape for q in calls] == [(4, 32, 64)]  # once for the loop over four
    listed.attend_lists.clear_cache()


PROMPTS, PAGES = BlockSparseShape(2, 60, 2, 1, 64, 32, 16, 4), SparseDecodeShape(3, 3, 5, 2, 1, 1, 64, 16, 4)
WRONG = {
    "reads one block more": (PAGES, "place < count[tile]", "place <= count[tile]"),
    "reads what lies behind a query": (PROMPTS, "positions(1) <= row", "positions(1) <= row + 1"),
    "reads what lies behind the cache": (
        PAGES,
        "allowed = positions(1) < length[tile]",
        "allowed = positions(1) < NOWHERE",
    ),
    "multiplies NaN by nothing": (PROMPTS, "positions(0) < length[tile]", "positions(0) <= length[tile]"),
    "takes the list of the tile before": (PAGES, "index[tile *", "index[jnp.maximum(tile - 1, 0) *"),
    "forgets the first blocks": (PROMPTS, "step == 0", "step * operands < count[tile]"),
}


@pytest.mark.parametrize("name", [name if name == "reads one block more" else SLOW(name) for name in WRONG])
def test_a_wrong_kernel_is_found(monkeypatch, name):
    shape, right, wrong = WRONG[name]
    source = inspect.getsource(listed._kernel)
    assert right in source
    changed = dict(vars(listed))
    exec(source.replace(right, wrong), changed)
    monkeypatch.setattr(listed, "_kernel", changed["_kernel"])
    monkeypatch.setattr(listed, "KEYS_OF_A_STEP", 32)
    listed.attend_lists.clear_cache()
    operation, arrays, blocks = sparse(shape, seed=3)
    got = interpreted(lambda *arrays: operation(*arrays, **blocks, implementation="tpu"), *arrays)
    listed.attend_lists.clear_cache()
    with pytest.raises(AssertionError):
        assert_states(got, expected_sparse(arrays, blocks), TOLERANCE["float32"])


def test_gradient_is_that_of_xla():
    arrays, groups = prefix_inputs(PrefixShape((2,), (9,), 2, 1, 64))

    def gradient(implementation):
        loss = lambda arrays: prefix_attention(*arrays, **groups, implementation=implementation)[0].sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(arrays)

    with pltpu.force_tpu_interpret_mode():
        got, expected = gradient("tpu"), gradient("xla")
    for ours, theirs in zip(got, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def lower(call, *arrays):
    """Lower for TPU on whatever machine this is: checks block shapes, which the interpreter does not."""
    text = jax.export.export(jax.jit(call), platforms=["tpu"])(*arrays).mlir_module()
    assert "tpu_custom_call" in text


@pytest.mark.parametrize("dtype", [SLOW("float32"), "bfloat16"])
@pytest.mark.parametrize("name", PREFIX_SHAPES)
def test_prefix_attention_lowers_at_real_shapes(name, dtype):
    shape, integers = PREFIX_SHAPES[name], np.int32
    kv = jax.ShapeDtypeStruct((len(shape.keys), max(shape.keys), shape.num_kv_heads, shape.head_dim), dtype)
    lower(
        lambda q, k, v, lengths, offsets: prefix_attention(
            q, k, v, kv_lengths=lengths, query_offsets=offsets, implementation="tpu"
        ),
        jax.ShapeDtypeStruct((sum(shape.rows), shape.num_heads, shape.head_dim), dtype),
        kv,
        kv,
        jax.ShapeDtypeStruct((len(shape.keys),), integers),
        jax.ShapeDtypeStruct((len(shape.keys) + 1,), integers),
    )


@pytest.mark.parametrize("dtype", [SLOW("float32"), "bfloat16"])
@pytest.mark.parametrize("name", DECODE_SHAPES)
def test_decode_attention_lowers_at_real_shapes(name, dtype):
    shape = DECODE_SHAPES[name]
    kv = jax.ShapeDtypeStruct((shape.batch, shape.slots, shape.num_kv_heads, shape.head_dim), dtype)
    lower(
        lambda *arrays: decode_attention(*arrays, num_splits=4, implementation="tpu"),
        jax.ShapeDtypeStruct((shape.batch, shape.tokens, shape.num_heads, shape.head_dim), dtype),
        kv,
        kv,
        jax.ShapeDtypeStruct((shape.batch,), np.int32),
    )


@pytest.mark.parametrize("dtype", [SLOW("float32"), "bfloat16"])
@pytest.mark.parametrize("name", REAL_SPARSE)
def test_sparse_attention_lowers_at_real_shapes(name, dtype):
    operation, arrays, blocks = sparse_arguments(REAL_SPARSE[name], dtype)
    lower(lambda *arrays: operation(*arrays, **blocks, implementation="tpu"), *arrays)


Q, K = jnp.zeros((4, 2, 64)), jnp.zeros((1, 8, 2, 64))


@pytest.mark.parametrize(
    ("q", "k", "reason"),
    [
        (Q.astype("float16"), K.astype("float16"), "tpu: takes float32 and bfloat16, got float16"),
        (Q[..., :8], K[..., :8], "tpu: takes heads of width 64, 128 and 256, got 8"),
        (Q[:0], K, "tpu: takes at least one row, got none"),
    ],
)
def test_refuses_with_the_reason(q, k, reason):
    with pytest.raises(NotImplementedError, match=f"no implementation of prefix_attention takes .*{reason}"):
        prefix_attention(q, k, k, implementation="tpu")


def test_decode_attention_refuses_too_many_new_tokens():
    q, k = jnp.zeros((1, 300, 4, 64)), jnp.zeros((1, 300, 2, 64))
    with pytest.raises(NotImplementedError, match=r"tpu: takes at most 512 new tokens times query heads .*, got 600"):
        decode_attention(q, k, k, jnp.array([0]), implementation="tpu")


@pytest.mark.parametrize(
    ("block_q", "block_k", "reason"),
    [
        (16, 8, "tpu: takes blocks of a multiple of 16 keys, 1024 at most, got 8"),
        (16, 1040, "tpu: takes blocks of a multiple of 16 keys, 1024 at most, got 1040"),
        (513, 16, "tpu: takes at most 512 query rows with one list, got 513"),
    ],
)
def test_sparse_attention_refuses_with_the_reason(block_q, block_k, reason):
    q, index = jnp.zeros((1, 9, 2, 64)), jnp.zeros((1, 2, 1, 1), int)
    with pytest.raises(NotImplementedError, match=f"no implementation of block_sparse_attention takes .*{reason}"):
        block_sparse_attention(
            q, q, q, jnp.array([9]), index, index[..., 0], block_q=block_q, block_k=block_k, implementation="tpu"
        )
