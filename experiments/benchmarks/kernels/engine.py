"""Our operations under the stopwatch, and jax's own attention beside them. Runs inside a worker process."""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import machine
from experiments.benchmarks.kernels import device_time
from experiments.benchmarks.kernels.ceilings import Ceilings
from experiments.benchmarks.kernels.inputs import Arrays, expected, make, num_sets, random_key
from experiments.benchmarks.kernels.shapes import LISTED, TOLERANCE, KernelShape, layout_of, work
from experiments.benchmarks.kernels.sides import jax_sides
from experiments.record import environment
from jaxdec.compat import CompileClock
from pallas_kernels import (
    block_sparse_attention,
    decode_attention,
    merge,
    prefix_attention,
    sparse_decode_attention,
)


class KernelEngine:
    """All sides that are jax programs, in one process, since it holds the device."""

    def __init__(self):
        """Take the device, its memory piece by piece: another process with PyTorch needs some too."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self.device = jax.devices()[0]
        self.clock = device_time.clock()
        self._programs: dict[tuple[str, str], Callable[..., Any]] = {}
        self._counts: dict[tuple[str, KernelShape], int] = {}
        self._sets: tuple[Any, list[Arrays]] = (None, [])
        self._ceilings: Ceilings | None = None

    def describe(self) -> dict[str, Any]:
        """Versions (of ``engines`` that are not ours too), device, clock, and ``sides``, as :func:`jax_sides` has them."""
        import jaxdec

        jaxs = {"engine": "jax", "version": jax.__version__}
        return {
            "engine": "jaxdec",
            "version": jaxdec.__version__,
            "jax": jax.__version__,
            "device": self.device.device_kind,
            "platform": self.device.platform,
            "threads": machine.num_threads(),
            "clock": self.clock,
            "sides": jax_sides(),
            "engines": {"device": jaxs, "jax.nn-xla": jaxs, "jax.nn-cudnn": jaxs},
        }

    def environment(self) -> dict[str, Any]:
        """Hardware, versions and commit, seen from the process that holds the device."""
        return environment()

    def warm_up(self, side: str, seconds: float, **case: Any) -> dict[str, Any]:
        """Compare with the reference, compile, run.

        Returns:
          ``compile_seconds`` and ``difference`` (see :func:`difference`), or ``refused``, the reason why the side does not take
          this case. Of the side ``device``: nothing.

        Raises:
          Exception: our XLA backend, which takes everything that fits into memory, fails or is wrong.
        """
        if side == "device":
            self._ceilings = Ceilings(**case)
            self._ceilings.warm_up(lambda call: self._enough(call, seconds))
            return {}
        try:
            return self._try_out(side, KernelShape.of(case), seconds)
        except NotImplementedError as refusal:
            return {"refused": first_line(refusal)}
        except Exception as error:
            if side in ("jaxdec-xla", "copied-xla") and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"refused": f"{type(error).__name__}: {first_line(error)}"}

    def measure(self, side: str, seconds: float, **case: Any) -> dict[str, float]:
        """Microseconds per call; where the device's own time is taken, also as the host sees them."""
        if side == "device":
            assert self._ceilings is not None
            return self._ceilings.measure(self._time)
        shape = KernelShape.of(case)
        run, sets = self._programs[side, shape.operation], self._arrays(side, shape)
        return self._time(lambda index: run(*sets[index % len(sets)]), self._counts[side, shape])

    def _try_out(self, side: str, shape: KernelShape, seconds: float) -> dict[str, Any]:
        found = difference(side, shape)
        if not found <= TOLERANCE[shape.dtype]:  # NaN is not less than anything
            raise RuntimeError(f"wrong by {found:g}, and {TOLERANCE[shape.dtype]:g} is allowed")
        run = self._programs.setdefault((side, shape.operation), program(side, shape.operation))
        sets = self._arrays(side, shape)
        clock = CompileClock()
        with clock:
            jax.block_until_ready(run(*sets[0]))
        self._counts[side, shape] = self._enough(lambda index: run(*sets[index % len(sets)]), seconds)
        return {"compile_seconds": clock.seconds, "difference": found}

    def _enough(self, call: Callable[[int], Any], seconds: float) -> int:
        """Number of calls that take about ``seconds``, at least 3."""
        once = device_time.wall_seconds(call, 3)
        return max(3, min(device_time.MOST_CALLS[self.clock], math.ceil(seconds / once)))

    def _time(self, call: Callable[[int], Any], count: int) -> dict[str, float]:
        wall = device_time.wall_seconds(call, count) * 1e6
        if self.clock == "host":
            return {"microseconds": wall}
        busy = device_time.device_seconds(call, count)
        if busy is None:
            raise RuntimeError("the profiler, which saw the device before, sees it no more")
        return {"microseconds": busy * 1e6, "wall_microseconds": wall}

    def _arrays(self, side: str, shape: KernelShape) -> list[Arrays]:
        """Sets of arrays that take turns. Those of the last call are kept: sides of a case often share them.

        Raises:
          NotImplementedError: they do not fit the device.
        """
        layout = layout_of(shape.operation, side)
        if self._sets[0] != (layout, shape):
            self._sets = (None, [])  # before others are made: two caches may not fit
            nbytes = work(shape, side).bytes
            limit = (self.device.memory_stats() or {}).get("bytes_limit")
            if limit is not None and nbytes > limit:
                raise NotImplementedError(
                    f"needs {nbytes / 1e9:.1f} GB of memory, and {limit / 1e9:.1f} GB may be used"
                )
            keys = jax.random.split(random_key(0), num_sets(nbytes))
            self._sets = ((layout, shape), jax.block_until_ready([make(key, layout, shape) for key in keys]))
        return self._sets[1]


def program(side: str, operation: str) -> Callable[..., Any]:
    """A function of a side that takes the arrays of its layout, to be compiled."""
    group, _, backend = side.rpartition("-")
    layout = layout_of(operation, side)
    if group == "jax.nn":
        dense: Any = jax.nn.dot_product_attention
        return jax.jit(lambda q, k, v, lengths: dense(q, k, v, implementation=backend))
    rows = functools.partial(decode_attention, implementation=backend)
    shared = functools.partial(prefix_attention, implementation=backend)
    merged = functools.partial(merge, implementation=backend)

    def split(q, prefix_k, prefix_v, k, v, lengths):
        o, lse = rows(q, k, v, lengths)
        return merge([shared(q[:, 0], prefix_k, prefix_v), (o[:, 0], lse[:, 0])])

    block, page = LISTED.values()
    functions = {
        "states": lambda *parts: merged(parts),
        "shared": shared,
        "rows": rows,
        "split": split,
        "lists": functools.partial(block_sparse_attention, block_q=block, block_k=block, implementation=backend),
        "pages": functools.partial(sparse_decode_attention, page_size=page, implementation=backend),
    }
    return jax.jit(functions[layout])


def difference(side: str, shape: KernelShape) -> float:
    """Largest difference of ``o`` from the float64 reference, on the same heads with fewer rows and keys."""
    small, layout = shape.small(), layout_of(shape.operation, side)
    arrays = make(random_key(1), layout, small)
    result = program(side, shape.operation)(*arrays)
    o = result if isinstance(result, jax.Array) else result[0]
    wanted = expected(layout, arrays)
    return float(np.abs(np.asarray(o).astype(np.float64).reshape(wanted.shape) - wanted).max())


def first_line(error: BaseException) -> str:
    """Of its message."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
