"""The Triton kernel without a GPU: compiled to machine code at real shapes, interpreted, and lowered; and with one, run.

The tests skip what needs packages that are not there: `pip install -e '.[triton,peers]'` has them.
"""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.gpu_triton
import numpy as np
import pytest

import pallas_kernels.tiled_attention
from pallas_kernels import decode_attention, prefix_attention
from pallas_kernels.block_sparse_attention.shapes import ODD as ODD_BLOCK_SPARSE
from pallas_kernels.block_sparse_attention.shapes import SHAPES as BLOCK_SPARSE_SHAPES
from pallas_kernels.block_sparse_attention.shapes import BlockSparseShape
from pallas_kernels.decode_attention.shapes import ODD as ODD_DECODE
from pallas_kernels.decode_attention.shapes import SHAPES as DECODE_SHAPES
from pallas_kernels.decode_attention.shapes import DecodeShape
from pallas_kernels.listed_attention import triton as listed
from pallas_kernels.prefix_attention.shapes import ODD as ODD_PREFIX
from pallas_kernels.prefix_attention.shapes import SHAPES as PREFIX_SHAPES
from pallas_kernels.prefix_attention.shapes import PrefixShape
from pallas_kernels.sparse_decode_attention.shapes import ODD as ODD_SPARSE_DECODE
from pallas_kernels.sparse_decode_attention.shapes import SHAPES as SPARSE_DECODE_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SparseDecodeShape
from pallas_kernels.tiled_attention import triton as tiles
from tests.pallas_kernels.arrays import (
    TOLERANCE,
    assert_states,
    decode_inputs,
    prefix_inputs,
    sparse,
    sparse_arguments,
    tree_mask,
)

on_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
POINTERS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16", "int32": "*i32"}
SHARED_MEMORY = {80: 99 << 10, 90: 227 << 10}  # sm80 has 163 KB, sm86 and sm89, which take the same programs, have 99


class Call(NamedTuple):
    """What an operation hands to ``jax_triton.triton_call``."""

    kernel: Any
    types: list[str]
    sizes: list[int]  # of q, k and v
    grid: tuple[int, int, int]
    options: dict[str, int]
    constants: dict[str, Any]


@pytest.fixture
def calls(monkeypatch):
    """The calls that operations make while they are traced, whether ``jax_triton`` is installed or not."""
    pytest.importorskip("triton", reason="needs the package triton")
    made = []

    def triton_call(*arrays, kernel, out_type, grid, name, num_warps, num_stages, backend_options, **constants):
        types = [POINTERS[str(array.dtype)] for array in (*arrays, *out_type)]
        sizes = [array.size for array in arrays[:3]]
        options = {"num_warps": num_warps, "num_stages": num_stages, **backend_options}
        made.append(Call(kernel, types, sizes, grid, options, constants))
        return [jnp.zeros(out.shape, out.dtype) for out in out_type]

    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace(triton_call=triton_call, __version_info__=(9,)))
    for program in (tiles.attend_tiles, listed.attend_lists):
        program.clear_cache()
    yield made
    for program in (tiles.attend_tiles, listed.attend_lists):
        program.clear_cache()


def call_of(shape: PrefixShape | DecodeShape | BlockSparseShape | SparseDecodeShape, dtype: str):
    """The operation of a shape, through Triton, and shapes and types of its arguments."""
    if isinstance(shape, BlockSparseShape | SparseDecodeShape):
        operation, arrays, blocks = sparse_arguments(shape, dtype)
        return functools.partial(operation, **blocks, implementation="triton"), arrays
    if isinstance(shape, PrefixShape):
        groups = len(shape.keys)
        q = (sum(shape.rows), shape.num_heads, shape.head_dim)
        kv = (groups, max(shape.keys), shape.num_kv_heads, shape.head_dim)
        integers = [(groups,), (groups + 1,)]
    else:
        q = (shape.batch, shape.tokens, shape.num_heads, shape.head_dim)
        kv = (shape.batch, shape.slots, shape.num_kv_heads, shape.head_dim)
        integers = [(shape.batch,)]

    def attend(q, k, v, lengths, *offsets):
        if not offsets:
            return decode_attention(q, k, v, lengths, implementation="triton")
        return prefix_attention(q, k, v, kv_lengths=lengths, query_offsets=offsets[0], implementation="triton")

    return attend, [
        *(jax.ShapeDtypeStruct(array, dtype) for array in (q, kv, kv)),
        *(jax.ShapeDtypeStruct(array, np.int32) for array in integers),
    ]


def trace(shape, dtype: str):
    """Trace the operation of a shape, and not what was traced before; returns the arguments."""
    attend, arguments = call_of(shape, dtype)
    jax.eval_shape(lambda *arrays: attend(*arrays), *arguments)
    return arguments


def compiled(call: Call, capability: int):
    """The program for GPUs of a compute capability, on whatever machine this is."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = call.kernel.arg_names
    signature = dict(zip(names, call.types)) | dict.fromkeys(call.constants, "constexpr")
    aligned = {(index,): [["tt.divisibility", 16]] for index in range(len(call.types))}
    source = ASTSource(call.kernel, signature, constexprs=call.constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=call.options)


def spilled(text: str) -> int:
    """Bytes that the assembler moves from registers to memory."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [assembler, "-v", "--gpu-name=sm_80", "-o", os.devnull, "-"]
    said = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stderr
    (stores,) = re.findall(r"(\d+) bytes spill stores", said)
    return int(stores)


SHAPES = {
    **{f"prefix {name}": shape for name, shape in PREFIX_SHAPES.items()},
    **{f"decode {name}": shape for name, shape in DECODE_SHAPES.items()},
    **{f"prompts {name}": shape for name, shape in BLOCK_SPARSE_SHAPES.items()},
    **{f"pages {name}": shape for name, shape in SPARSE_DECODE_SHAPES.items()},
}
FLOAT32 = {
    **{f"{name} float32": shape for name, shape in SHAPES.items()},
    "widest float32": PrefixShape((2,), (40,), 2, 1, 256),
}
WIDEST = {"widest": PrefixShape((256,), (4096,), 16, 2, 256), "narrowest": PrefixShape((256,), (4096,), 16, 2, 16)}
SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
QUICK = (
    "prefix llama-3-8b",
    "decode llama-3-8b",
    "decode smollm2-135m float32",
    "prompts llama-3-8b",
    "pages llama-3-8b",
)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize("name", [name if name in QUICK else SLOW(name) for name in (SHAPES | FLOAT32 | WIDEST)])
def test_compiles_at_real_shapes(calls, monkeypatch, tmp_path, name, capability):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    dtype = "float32" if name in FLOAT32 else "bfloat16"
    trace((SHAPES | FLOAT32 | WIDEST)[name], dtype)
    (call,) = calls
    program = compiled(call, capability)
    assert len(program.asm["cubin"]) > 1000
    assert program.metadata.shared <= SHARED_MEMORY[capability]
    text = program.asm["ptx"]
    assert re.search(rf"^\.target sm_{capability}", text, re.MULTILINE)
    if capability == 80:
        assert spilled(text) <= (256 if dtype == "float32" else 0)
    # Products on tensor cores, copies that run ahead, in the widest pieces there are.
    multiplies = re.search(r"\b(mma\.sync|wgmma\.mma_async)\b", text)
    assert bool(multiplies) == (dtype == "bfloat16")
    assert re.search(r"cp\.async\.cg\.shared\.global .*0x10", text)


@pytest.mark.parametrize(
    ("shape_of", "ranges"),
    [
        (lambda rows: DecodeShape(rows, 2, 4096, 32, 8, 128), 8),
        (lambda rows: PrefixShape((40 * rows,), (8192,), 32, 8, 128), 4),
        (lambda rows: SparseDecodeShape(rows, 1, 512, 32, 8, 8, 128, 16, 128), 4),
    ],
    ids=["decode", "prefix", "pages"],
)
def test_ranges_follow_from_the_capacity(calls, shape_of, ranges):
    """Not from the batch: a row is cut and added up in the same way whatever stands beside it."""
    cuts = []
    for batch in (1, 3, 64):
        trace(shape_of(batch), "bfloat16")
        call = calls.pop()
        call.constants.pop("Q_ALL" if "RANGES" in call.constants else "ROWS")
        cuts.append((call.constants.get("RANGES", call.grid[1]), call.options, call.constants))
    assert cuts[0] == cuts[1] == cuts[2]
    assert cuts[0][0] == ranges


def test_arrays_reach_the_kernel_as_they_are(calls):
    """Neither gathered into tiles nor padded: rows that do not fill their tiles, keys that do not fill their blocks."""
    shapes = (
        ODD_PREFIX["ragged"],
        DecodeShape(2, 70, 200, 4, 2, 64),
        BlockSparseShape(2, 70, 4, 2, 64, 24, 20, 3),
        SparseDecodeShape(2, 3, 5, 6, 2, 2, 64, 16, 3),
    )
    for shape in shapes:
        arguments = trace(shape, "bfloat16")
        assert calls.pop().sizes == [array.size for array in arguments[:3]]


@pytest.mark.parametrize("which", ["some", SLOW("all")])
def test_interpreter_equals_reference(which):
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"Triton's interpreter needs the package {package}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pallas_kernels.interpreted_triton", which],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ checks, 0 failed$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", [f"{kind} llama-3-8b" for kind in ("prefix", "decode", "prompts", "pages")])
def test_lowers_for_cuda(monkeypatch, name):
    reason = "jax-triton lowers for CUDA only beside jax's CUDA plugin"
    jax_triton = pytest.importorskip("jax_triton", reason=reason, exc_type=ImportError)
    if not hasattr(jaxlib.gpu_triton, "TritonKernel"):
        pytest.skip(reason)
    if jax_triton.__version_info__ <= (0, 4, 1) and jax.__version_info__ >= (0, 12):
        pytest.skip(f"jax-triton {jax_triton.__version__} does not work with jax {jax.__version__}")
    call = functools.partial(jax_triton.triton_call, compute_capability=80)
    monkeypatch.setattr(jax_triton, "triton_call", call)
    targets = [
        jax.export.DisabledSafetyCheck.custom_call(name) for name in ("triton_kernel_call", "triton_kernel_call_ffi")
    ]
    attend, arguments = call_of(SHAPES[name], "bfloat16")
    lowered = jax.export.export(jax.jit(attend), platforms=["cuda"], disabled_checks=targets)
    assert "triton_kernel_call" in lowered(*arguments).mlir_module()


Q, K = jnp.zeros((4, 2, 64)), jnp.zeros((1, 8, 2, 64))


@pytest.mark.parametrize(
    ("q", "k", "reason"),
    [
        (Q[..., :8], K[..., :8], "triton: takes heads of width 16, 32, 64, 128, 256, got 8"),
        (Q[..., :48], K[..., :48], "triton: takes heads of width 16, 32, 64, 128, 256, got 48"),
        (Q[:0], K, "triton: takes at least one row, got none"),
        (jnp.zeros((4, 66, 64)), K, "triton: takes at most 16 query heads per .* for float32 of width 64, got 33"),
        (
            jnp.zeros((4, 130, 256), "bfloat16"),
            jnp.zeros((1, 8, 2, 256), "bfloat16"),
            "triton: takes at most 32 query heads per key/value head for bfloat16 of width 256, got 65",
        ),
    ],
)
def test_refuses_with_the_reason(q, k, reason):
    with pytest.raises(NotImplementedError, match=f"no implementation of prefix_attention takes .*{reason}"):
        prefix_attention(q, k, k, implementation="triton")


def test_refuses_float64():
    with jax.enable_x64(True):
        q, k = jnp.zeros((1, 1, 2, 64), "float64"), jnp.zeros((1, 8, 2, 64), "float64")
        reason = "triton: takes float32, bfloat16 and float16, got float64"
        with pytest.raises(NotImplementedError, match=f"no implementation of decode_attention takes .*{reason}"):
            decode_attention(q, k, k, jnp.array([3]), implementation="triton")


@pytest.mark.parametrize("package", ["jax_triton", "pallas_kernels.tiled_attention.triton_kernel"])
def test_refuses_without_its_packages(monkeypatch, package):
    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace())
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delattr(pallas_kernels.tiled_attention, "triton_kernel", raising=False)
    with pytest.raises(NotImplementedError, match=r"triton: needs the packages of jaxdec\[triton\]: .*" + package):
        prefix_attention(Q, K, K, implementation="triton")


def test_refuses_versions_that_do_not_work_together(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace(__version_info__=(0, 4, 1), __version__="0.4.1"))
    monkeypatch.setitem(sys.modules, "pallas_kernels.tiled_attention.triton_kernel", SimpleNamespace())
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    tiles.packages()
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    with pytest.raises(NotImplementedError, match=r"needs jax older than 0\.12 with jax-triton 0\.4\.1, got jax "):
        tiles.packages()


@pytest.mark.parametrize("capability", ["7.5", "gfx90a", None])
def test_refuses_other_devices(capability):
    with pytest.raises(NotImplementedError, match=f"needs compute capability 8.0 or newer, .* has {capability}"):
        tiles.check_device(SimpleNamespace(compute_capability=capability))


@pytest.mark.parametrize("capability", ["8.0", "8.9", "9.0", "12.0"])
def test_takes_ampere_and_newer(capability):
    tiles.check_device(SimpleNamespace(compute_capability=capability))


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [*PREFIX_SHAPES, *ODD_PREFIX])
def test_prefix_attention_on_a_gpu(name, dtype):
    shape = (PREFIX_SHAPES | ODD_PREFIX)[name].scaled(rows=64, keys=2048)
    arrays, groups = prefix_inputs(shape, dtype)
    got, expected = (
        jax.jit(lambda *arrays, way=way: prefix_attention(*arrays, **groups, implementation=way))(*arrays)
        for way in ("triton", "xla")
    )
    assert_states(got, expected, TOLERANCE["float32"] if dtype == "float32" else 4 * TOLERANCE["bfloat16"])


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [*DECODE_SHAPES, *ODD_DECODE])
def test_decode_attention_on_a_gpu(name, dtype):
    inputs = decode_inputs((DECODE_SHAPES | ODD_DECODE)[name].scaled(batch=4, slots=2048), dtype)
    visible = tree_mask(*inputs[0].shape[:2])
    got, expected = (
        jax.jit(lambda *inputs, way=way: decode_attention(*inputs, visible=visible, implementation=way))(*inputs)
        for way in ("triton", "xla")
    )
    assert_states(got, expected, TOLERANCE["float32"] if dtype == "float32" else 4 * TOLERANCE["bfloat16"])


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [*BLOCK_SPARSE_SHAPES.values(), *ODD_BLOCK_SPARSE.values()], ids=str)
def test_block_sparse_attention_on_a_gpu(shape, dtype):
    compare_sparse(shape.scaled(batch=2, tokens=2048, most=8), dtype)


@on_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [*SPARSE_DECODE_SHAPES.values(), *ODD_SPARSE_DECODE.values()], ids=str)
def test_sparse_decode_attention_on_a_gpu(shape, dtype):
    compare_sparse(shape.scaled(batch=4, pages=128, most=40), dtype)


def compare_sparse(shape, dtype):
    operation, arrays, blocks = sparse(shape, dtype)
    got, expected = (
        jax.jit(functools.partial(operation, **blocks, implementation=way))(*arrays) for way in ("triton", "xla")
    )
    assert_states(got, expected, TOLERANCE["float32"] if dtype == "float32" else 4 * TOLERANCE["bfloat16"])


@on_gpu
def test_a_row_does_not_depend_on_the_batch_on_a_gpu():
    inputs = decode_inputs(DecodeShape(5, 4, 1100, 32, 8, 128), "bfloat16")
    call = jax.jit(functools.partial(decode_attention, implementation="triton"))
    together = call(*inputs)
    for rows in ([0], [4, 2], [1, 3, 0]):
        for ours, theirs in zip(call(*(array[np.array(rows)] for array in inputs)), together):
            np.testing.assert_array_equal(ours, theirs[np.array(rows)])
