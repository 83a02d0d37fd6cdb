"""Tiles of query rows against the keys of their group, through Triton, for NVIDIA GPUs from Ampere (sm80) on.

The program is in :mod:`pallas_kernels.tiled_attention.triton_kernel`; here is how it is started. ``triton`` and ``jax_triton``
are optional (``jaxdec[triton]``) and imported when a call is traced.

Blocks are sized for the 99 KB of shared memory that every such GPU has (those of compute capability 8.6, 8.9 and 12.0; others
have more): a block of keys or values takes 16 KB, and two or three of each are in flight. Tiles and warps are sized so that
registers suffice.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

WIDTHS = (16, 32, 64, 128, 256)
MOST_KEYS = 128  # of a block
STAGES = 3


class Launch(NamedTuple):
    """How a program is cut: rows of a tile, keys of a block (powers of two), warps."""

    tile: int
    block: int
    warps: int


def check_supported(q: jax.Array, k: jax.Array):
    """Raise NotImplementedError for what the kernel does not do, on a GPU that it is not for, or without its packages."""
    check_queries(q)
    sharing, most = q.shape[-2] // k.shape[-2], most_rows(q.shape[-1], q.dtype)
    if sharing > most:
        raise NotImplementedError(
            f"takes at most {most} query heads per key/value head for {q.dtype} of width {q.shape[-1]}, got {sharing}"
        )
    check_machine()


def check_queries(q: jax.Array):
    """Raise NotImplementedError for queries of a type or width that kernels here do not take."""
    if q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"takes float32, bfloat16 and float16, got {q.dtype}")
    if q.shape[-1] not in WIDTHS:
        raise NotImplementedError(f"takes heads of width {', '.join(map(str, WIDTHS))}, got {q.shape[-1]}")
    if q.shape[0] == 0:
        raise NotImplementedError("takes at least one row, got none")


def check_machine():
    """Raise NotImplementedError on a GPU that the kernels are not for, or without their packages."""
    if jax.default_backend() == "gpu":
        check_device(jax.devices()[0])
    packages()


def check_device(device: jax.Device):
    """Raise NotImplementedError unless it is an NVIDIA GPU of compute capability 8.0 or newer."""
    found = str(getattr(device, "compute_capability", None))
    major, _, minor = found.partition(".")
    if not (major.isdigit() and minor.isdigit() and int(major) >= 8):
        raise NotImplementedError(f"needs compute capability 8.0 or newer, and the default device has {found}")


def packages() -> tuple[ModuleType, ModuleType]:
    """``jax_triton`` and the module of the kernel.

    Raises:
      NotImplementedError: they cannot be imported, or do not work together.
    """
    try:
        import jax_triton  # pyright: ignore[reportMissingImports]

        from pallas_kernels.tiled_attention import triton_kernel
    except ImportError as missing:
        raise NotImplementedError(f"needs the packages of jaxdec[triton]: {missing}") from missing
    # Its rule for unused results is called with one argument more by jax 0.12: every jit that has a call in it fails.
    if jax_triton.__version_info__ <= (0, 4, 1) and jax.__version_info__ >= (0, 12):
        raise NotImplementedError(
            f"needs jax older than 0.12 with jax-triton {jax_triton.__version__}, got jax {jax.__version__}"
        )
    return jax_triton, triton_kernel


def most_rows(width: int, dtype: jnp.dtype) -> int:
    """Rows of a tile at most: tokens times the query heads that share a key/value head. More would not fit the registers."""
    if jnp.dtype(dtype).itemsize == 4:
        return 16
    return 128 if width <= 128 else 32


def launch(rows: int, width: int, dtype: jnp.dtype) -> Launch:
    """How to cut tiles of ``rows`` rows. Does not depend on how many there are."""
    tile = max(16, 1 << (rows - 1).bit_length())  # 16 is what tensor cores have
    size = jnp.dtype(dtype).itemsize
    # float32 is multiplied without tensor cores, by threads that keep their operands in registers.
    many = size == 4 or tile == 128 or tile * width >= 64 * 128
    block_bytes = 8 << 10 if size == 4 else 16 << 10
    return Launch(tile, min(MOST_KEYS, max(16, block_bytes // (width * size))), warps=8 if many else 4)


@functools.partial(jax.jit, static_argnames=("tokens", "num_splits", "scale"))
def attend_tiles(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    first: jax.Array,
    count: jax.Array,
    group: jax.Array,
    length: jax.Array,
    *,
    tokens: int,
    num_splits: int = 1,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """Attention of each tile to each range of its group's keys.

    A tile is some of the rows of ``q``, one behind the other, so ``q`` is neither gathered nor copied. No row may be in two
    tiles.

    Args:
      q: ``[R, Hq, D]``.
      k: ``[G, L, Hkv, D]``.
      v: like ``k``.
      first: ``int32[W]``, the first row of each tile.
      count: ``int32[W]``, how many rows it has, at most ``tokens``; 0 for a tile that is not used.
      group: ``int32[W]``, whose keys it reads.
      length: ``int32[W]``, how many of them are in use.
      tokens: rows of a tile at most; times ``Hq / Hkv`` at most :func:`most_rows`.
      num_splits: ranges, at most; they are cut at whole blocks.
      scale: of the scores.

    Returns:
      ``o float32[M, R, Hq, D]`` and ``lse float32[M, R, Hq]`` for ``M`` ranges. Rows of no tile hold anything.
    """
    num_rows, num_heads, width = q.shape
    capacity, num_kv_heads = k.shape[1:3]
    sharing = num_heads // num_kv_heads
    cut = launch(tokens * sharing, width, q.dtype)
    num_blocks = -(-capacity // cut.block)
    per_range = -(-num_blocks // min(num_splits, num_blocks))
    num_ranges = -(-num_blocks // per_range)
    out = [
        jax.ShapeDtypeStruct((num_ranges, num_rows, num_heads, width), jnp.float32),
        jax.ShapeDtypeStruct((num_ranges, num_rows, num_heads), jnp.float32),
    ]
    o, lse = start(
        packages()[1].attend_tiles,
        (q, k, v, first, count, group, length),
        out,
        (len(first), num_ranges, num_kv_heads),
        cut,
        SCALE=scale * math.log2(math.e),
        ROWS=num_rows,
        CAPACITY=capacity,
        HEADS=num_kv_heads,
        SHARING=sharing,
        WIDTH=width,
        RANGE=per_range * cut.block,
    )
    return o, lse


def start(
    kernel: Any,
    arrays: tuple[jax.Array, ...],
    out: list[jax.ShapeDtypeStruct],
    grid: tuple[int, int, int],
    cut: Launch,
    **constants: Any,
) -> Sequence[jax.Array]:
    """Start a program of Triton, which is told ``TILE`` and ``BLOCK`` of the cut and the other constants."""
    jax_triton, _ = packages()
    # jax-triton 0.4 renamed one argument and hides another, whose default in Triton 3.9 is a warning.
    if "out_type" in inspect.signature(jax_triton.triton_call).parameters:
        renamed = {"out_type": out, "backend_options": {"enable_fp_fusion": True}}
    else:
        renamed = {"out_shape": out, "enable_fp_fusion": True}
    return jax_triton.triton_call(
        *arrays,
        **renamed,
        kernel=kernel,
        grid=grid,
        num_warps=cut.warps,
        num_stages=STAGES,
        name=kernel.__name__,
        TILE=cut.tile,
        BLOCK=cut.block,
        **constants,
    )
