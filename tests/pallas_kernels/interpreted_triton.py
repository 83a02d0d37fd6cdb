"""The Triton kernel in Triton's interpreter, against the references: a program, to be started with TRITON_INTERPRET=1.

With the argument "all" it checks all shapes and types.

``jax_triton`` starts kernels on GPUs only. A stand-in for its one function runs the interpreter on what it is given, in jax,
so that all that surrounds the kernel is what a GPU would run. Inputs lie between fences of NaN, outputs begin as NaN.
"""

import sys
import traceback
from types import ModuleType

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from pallas_kernels import decode_attention, prefix_attention
from pallas_kernels.block_sparse_attention.shapes import ODD as ODD_BLOCK_SPARSE
from pallas_kernels.block_sparse_attention.shapes import SHAPES as BLOCK_SPARSE_SHAPES
from pallas_kernels.block_sparse_attention.shapes import BlockSparseShape
from pallas_kernels.decode_attention.shapes import ODD as ODD_DECODE
from pallas_kernels.decode_attention.shapes import SHAPES as DECODE_SHAPES
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.prefix_attention.shapes import ODD as ODD_PREFIX
from pallas_kernels.prefix_attention.shapes import SHAPES as PREFIX_SHAPES
from pallas_kernels.prefix_attention.shapes import PrefixShape
from pallas_kernels.sparse_decode_attention.shapes import ODD as ODD_SPARSE_DECODE
from pallas_kernels.sparse_decode_attention.shapes import SHAPES as SPARSE_DECODE_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SparseDecodeShape
from tests.pallas_kernels.arrays import (
    TOLERANCE,
    assert_states,
    decode_inputs,
    expected_decode,
    expected_prefix,
    expected_sparse,
    normal,
    prefix_inputs,
    sparse,
    tree_mask,
)

PREFIX = {
    **ODD_PREFIX,
    **{name: shape.scaled(rows=3, keys=150) for name, shape in PREFIX_SHAPES.items()},
    "two ranges": PrefixShape((3,), (2100,), 2, 1, 16),
    "several tiles": PrefixShape((70, 5), (200, 64), 4, 2, 64),
    "widest": PrefixShape((2,), (40,), 2, 1, 256),
}
DECODE = {
    **ODD_DECODE,
    **{name: shape.scaled(batch=3, slots=150) for name, shape in DECODE_SHAPES.items()},
    "two ranges": DecodeShape(3, 2, 1100, 4, 2, 16),
    "several tiles": DecodeShape(2, 70, 200, 4, 2, 64),
}
SPARSE = {
    **{f"prompts {name}": shape for name, shape in ODD_BLOCK_SPARSE.items()},
    **{f"prompts {name}": shape.scaled(1, 150, 3) for name, shape in BLOCK_SPARSE_SHAPES.items()},
    "blocks of odd sizes": BlockSparseShape(2, 70, 4, 2, 16, 24, 20, 3),
    "several tiles": BlockSparseShape(1, 70, 2, 1, 64, 40, 32, 2),
    **{f"pages {name}": shape for name, shape in ODD_SPARSE_DECODE.items()},
    **{f"pages {name}": shape.scaled(2, 9, 7) for name, shape in SPARSE_DECODE_SHAPES.items()},
    "two ranges": SparseDecodeShape(2, 2, 80, 4, 2, 2, 16, 16, 40),
}
# Weights are rounded to the type of the values before they are multiplied.
TOLERANCES = {"float32": TOLERANCE["float32"], "bfloat16": 4 * TOLERANCE["bfloat16"], "float16": 1e-3}
FENCE = 512


def fenced(shape, dtype) -> torch.Tensor:
    """A tensor of NaN (of -1 for integers) in the middle of a longer one."""
    size = int(np.prod(shape))
    filling = torch.nan if dtype.is_floating_point else -1
    return torch.full((size + 2 * FENCE,), filling, dtype=dtype)[FENCE : FENCE + size].view(*shape)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    narrow = array.dtype == ml_dtypes.bfloat16
    source = torch.from_numpy(np.array(array.view(np.int16) if narrow else array))
    source = source.view(torch.bfloat16) if narrow else source
    return fenced(source.shape, source.dtype).copy_(source)


def triton_call(*arrays, kernel, out_shape, grid, name, num_warps, num_stages, enable_fp_fusion, **constants):
    """The stand-in for ``jax_triton.triton_call``."""
    del name, num_warps, num_stages, enable_fp_fusion

    def run(*arrays):
        outputs = [fenced(out.shape, torch.float32) for out in out_shape]
        kernel[grid](*(tensor_of(np.asarray(array)) for array in arrays), *outputs, **constants)
        for output in outputs:
            around = output._base
            assert torch.cat([around[:FENCE], around[-FENCE:]]).isnan().all(), "written outside of the output"
        return [output.numpy() for output in outputs]

    return jax.pure_callback(run, out_shape, *arrays)


def multiply_bfloat16_as_float():
    """Mend the interpreter, which keeps bfloat16 as the integers of its bits and multiplies those."""
    builder = interpreter.interpreter_builder
    plain = builder.create_dot

    def wide(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return interpreter.TensorHandle(handle.data.view(ml_dtypes.bfloat16).astype(np.float32), tl.float32)

    builder.create_dot = lambda a, b, *rest: plain(wide(a), wide(b), *rest)


def check_prefix(name, dtype):
    arrays, groups = prefix_inputs(PREFIX[name], dtype)
    expected = expected_prefix(arrays, groups)
    call = lambda **groups: prefix_attention(*arrays, **groups, implementation="triton")  # noqa: E731
    assert_states(call(**groups), expected, TOLERANCES[dtype])
    if dtype == "float32":
        assert_states(jax.jit(call)(**groups), expected, TOLERANCES[dtype])  # offsets that are traced


def check_rows_outside_of_all_groups():
    q, k, v = normal(5, (11, 4, 16), (2, 40, 2, 16), (2, 40, 2, 16))
    groups = {"kv_lengths": jnp.array([33, 40]), "query_offsets": np.array([2, 5, 9])}
    expected = expected_prefix((q, k, v), groups)
    call = lambda **groups: prefix_attention(q, k, v, **groups, implementation="triton")  # noqa: E731
    assert_states(call(**groups), expected, 1e-5)
    assert_states(jax.jit(call)(**groups), expected, 1e-5)


def check_decode(name, dtype, num_splits):
    inputs = decode_inputs(DECODE[name], dtype)
    visible = tree_mask(*inputs[0].shape[:2])
    num_splits = num_splits and min(num_splits, inputs[1].shape[1])
    got = decode_attention(*inputs, visible=visible, num_splits=num_splits, implementation="triton")
    assert_states(got, expected_decode(*inputs, visible), TOLERANCES[dtype])


def check_sparse(name, dtype):
    operation, arrays, blocks = sparse(SPARSE[name], dtype)
    got = operation(*arrays, **blocks, implementation="triton")
    assert_states(got, expected_sparse(arrays, blocks), TOLERANCES[dtype])


def check_a_row_does_not_depend_on_the_batch():
    arrays = decode_inputs(DecodeShape(5, 2, 1100, 4, 2, 16))
    together = decode_attention(*arrays, implementation="triton")
    for rows in ([0, 1], [4, 2]):
        alone = decode_attention(*(array[np.array(rows)] for array in arrays), implementation="triton")
        for ours, theirs in zip(alone, together):
            np.testing.assert_array_equal(ours, theirs[np.array(rows)])


def check_gradients():
    arrays, groups = prefix_inputs(PrefixShape((2,), (9,), 2, 1, 16))
    *floats, lengths = decode_inputs(DecodeShape(1, 1, 9, 2, 1, 16))
    gradient = lambda call, floats: jax.jit(jax.grad(lambda floats: sum(map(jnp.sum, call(*floats)))))(floats)  # noqa: E731

    def of(implementation):
        prefix = lambda *arrays: prefix_attention(*arrays, **groups, implementation=implementation)[:1]  # noqa: E731
        decode = lambda *arrays: decode_attention(*arrays, lengths, implementation=implementation)  # noqa: E731
        found = [*gradient(prefix, arrays), *gradient(decode, tuple(floats))]
        for shape in (BlockSparseShape(1, 9, 2, 1, 16, 8, 8, 2), SparseDecodeShape(1, 1, 2, 2, 1, 1, 16, 8, 2)):
            operation, arguments, blocks = sparse(shape)
            call = lambda *a, **b: operation(*a, **b, implementation=implementation)[:1]  # noqa: B023, E731
            found += gradient(lambda *a: call(*a, *arguments[3:], **blocks), arguments[:3])  # noqa: B023
        return found

    for ours, theirs in zip(of("triton"), of("xla")):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def main(everything: bool) -> int:
    jax.config.update(
        "jax_cpu_enable_async_dispatch", False
    )  # a callback that waits for its arguments may wait for ever
    stand_in = ModuleType("jax_triton")
    stand_in.triton_call, stand_in.__version_info__ = triton_call, (9,)
    sys.modules["jax_triton"] = stand_in
    multiply_bfloat16_as_float()
    narrow = ("two ranges", "several tiles", "ragged", "llama-3-8b")
    checks = [
        (check_prefix, "ragged", "float32"),
        (check_prefix, "two ranges", "bfloat16"),
        (check_prefix, "several tiles", "bfloat16"),
        (check_prefix, "llama-3-8b", "float32"),
        (check_decode, "as many tokens as slots", "float32", None),
        (check_decode, "two ranges", "bfloat16", 3),
        (check_decode, "several tiles", "float32", None),
        (check_sparse, "blocks of odd sizes", "float32"),
        (check_sparse, "several tiles", "float32"),
        (check_sparse, "prompts llama-3-8b", "bfloat16"),
        (check_sparse, "pages every head for itself", "float32"),
        (check_sparse, "two ranges", "bfloat16"),
        (check_rows_outside_of_all_groups,),
        (check_a_row_does_not_depend_on_the_batch,),
    ]
    if everything:
        types = lambda name: TOLERANCES if name in narrow else ("float32",)  # noqa: E731
        checks += [
            *((check_prefix, name, dtype) for name in PREFIX for dtype in types(name)),
            *((check_decode, name, dtype, splits) for name in DECODE for dtype in types(name) for splits in (None, 3)),
            *((check_sparse, name, dtype) for name in SPARSE for dtype in types(name)),
            (check_gradients,),
        ]
    failed = 0
    for check, *arguments in checks:
        try:
            check(*arguments)
        except Exception:
            failed += 1
            print(f"FAILED {check.__name__} {arguments}\n{traceback.format_exc()}")
    print(f"{len(checks)} checks, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(min(main("all" in sys.argv[1:]), 1))
