"""Peers in PyTorch under the stopwatch: its attention over a copied prefix, and FlashInfer's merge. Runs in a worker process.

FlashInfer: Ye et al. 2025, arXiv 2501.01005; its log-sum-exps are of base 2.
"""

import functools
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks import machine
from experiments.benchmarks.kernels.device_time import MOST_CALLS
from experiments.benchmarks.kernels.inputs import num_sets
from experiments.benchmarks.kernels.shapes import PARTS, TOLERANCE, KernelShape, work
from pallas_kernels.decode_attention.reference import decode_attention as plain_decode_attention
from pallas_kernels.merge.reference import merge as plain_merge


def missing_packages() -> list[str]:
    """Packages that are needed and not there."""
    return [] if importlib.util.find_spec("torch") else ["torch"]


def _package(name: str) -> Any:
    """Import an optional package that type checkers need not find."""
    return importlib.import_module(name)


class TorchEngine:
    """``torch-sdpa`` and ``flashinfer``, on the GPU if there is one."""

    def __init__(self):
        """Needs torch."""
        self.torch = _package("torch")
        self.torch.set_num_threads(machine.num_threads())
        self.on_gpu = self.torch.cuda.is_available()
        self.device = self.torch.device("cuda" if self.on_gpu else "cpu")
        self.clock = "device" if self.on_gpu else "host"
        self._runs: dict[tuple[str, KernelShape], tuple[Callable[..., Any], int]] = {}
        self._sets: tuple[Any, list[Any]] = (None, [])

    def describe(self) -> dict[str, Any]:
        """Versions, threads, and for each side why it cannot take part, or an empty string."""
        flashinfer = "" if self.on_gpu else "runs on gpu, and torch sees none"
        engines = {}
        if not importlib.util.find_spec("flashinfer"):
            flashinfer = "not installed: flashinfer (pip install flashinfer-python)"
        else:
            engines["flashinfer"] = {"engine": "flashinfer", "version": _package("flashinfer").__version__}
        return {
            "engine": "torch",
            "version": f"torch {self.torch.__version__}",
            "device": self.torch.cuda.get_device_name() if self.on_gpu else "cpu",
            "platform": "gpu" if self.on_gpu else "cpu",
            "threads": self.torch.get_num_threads(),
            "clock": self.clock,
            "sides": {"torch-sdpa": "", "flashinfer": flashinfer},
            "engines": engines,
        }

    def warm_up(self, side: str, seconds: float, **case: Any) -> dict[str, Any]:
        """Compare with the reference, choose the fastest way, run.

        Returns:
          ``difference`` and ``note`` (which way), or ``refused``, the reason why the side does not take this case.
        """
        shape = KernelShape.of(case)
        try:
            found = {name: self._difference(run, side, shape) for name, run in self._ways(side).items()}
            if wrong := [value for value in found.values() if not value <= TOLERANCE[shape.dtype]]:  # NaN too
                raise RuntimeError(f"wrong by {wrong[0]:g}, and {TOLERANCE[shape.dtype]:g} is allowed")
            sets = self._arrays(side, shape)
            times = {}
            for name, run in self._ways(side).items():
                call = functools.partial(_call, run, sets)
                self._wall_seconds(call, 2)
                times[name] = self._wall_seconds(call, 3)
        except Exception as error:
            self._sets = (None, [])
            return {"refused": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
        best = min(times, key=lambda name: times[name])
        count = max(3, min(MOST_CALLS[self.clock], math.ceil(seconds / times[best])))
        self._runs[side, shape] = (self._ways(side)[best], count)
        return {"difference": found[best], "note": best}

    def measure(self, side: str, seconds: float, **case: Any) -> dict[str, float]:
        """Microseconds per call; on a GPU those that kernels ran, and ``wall_microseconds`` seen from the host."""
        shape = KernelShape.of(case)
        run, count = self._runs[side, shape]
        call = functools.partial(_call, run, self._arrays(side, shape))
        wall = self._wall_seconds(call, count) * 1e6
        if not self.on_gpu:
            return {"microseconds": wall}
        return {"microseconds": self._kernel_microseconds(call, count) / count, "wall_microseconds": wall}

    def _ways(self, side: str) -> dict[str, Callable[..., Any]]:
        """What computes a side: the fastest counts."""
        if side == "flashinfer":
            merge_state = _package("flashinfer").merge_state
            return {"merge_state": lambda *parts: merge_state(*parts[0], *parts[1])[0]}
        attend = self.torch.nn.functional.scaled_dot_product_attention

        def grouped(q, k, v):
            return attend(q, k, v, enable_gqa=True)[:, :, 0]

        def folded(q, k, v):
            """Query heads of a key/value head are as good as new tokens, since nothing is masked."""
            rows, kv_heads, _, width = k.shape
            return attend(q.reshape(rows, kv_heads, -1, width), k, v).reshape(q.shape)[:, :, 0]

        return {"enable_gqa": grouped, "heads folded into tokens": folded}

    def _arrays(self, side: str, shape: KernelShape) -> list[Any]:
        """Sets that take turns, as PyTorch likes them: ``q [B, Hq, 1, D]``, ``k`` and ``v [B, Hkv, S, D]``."""
        if self._sets[0] != (side, shape):
            self._sets = (None, [])
            if self.on_gpu:
                self.torch.cuda.empty_cache()
            count = num_sets(work(shape, side).bytes)
            generator = self.torch.Generator(self.device).manual_seed(0)
            self._sets = ((side, shape), [self._make(side, shape, generator) for _ in range(count)])
        return self._sets[1]

    def _make(self, side: str, shape: KernelShape, generator: Any) -> Any:
        torch, dtype = self.torch, getattr(self.torch, shape.dtype)

        def normal(*size: int, dtype=dtype):
            return torch.randn(size, generator=generator, device=self.device, dtype=dtype)

        rows, heads, kv_heads, width = shape.batch, shape.num_heads, shape.num_kv_heads, shape.head_dim
        if side == "flashinfer":
            parts = [(normal(rows, heads, width), normal(rows, heads, dtype=torch.float32)) for _ in range(PARTS)]
            return tuple(parts)
        slots = shape.prefix + shape.suffix
        q = normal(rows, heads, 1, width)
        return q, *(normal(1, kv_heads, slots, width) * normal(rows, kv_heads, 1, width) for _ in range(2))

    def _difference(self, run: Callable[..., Any], side: str, shape: KernelShape) -> float:
        """Largest difference of ``o`` from the float64 reference, on fewer rows and keys."""
        generator = self.torch.Generator(self.device).manual_seed(1)
        arrays = self._make(side, shape.small(), generator)
        got = _wide(run(*arrays))
        if side == "flashinfer":
            wanted = plain_merge([(_wide(o), _wide(lse) * np.log(2)) for o, lse in arrays])[0]
        else:
            q, k, v = (np.moveaxis(_wide(array), 1, 2) for array in arrays)
            lengths, visible = np.full(len(q), k.shape[1] - 1), np.ones((len(q), 1, 1), bool)
            wanted = plain_decode_attention(q, k, v, lengths, visible, q.shape[-1] ** -0.5)[0][:, 0]
        return float(np.abs(got - wanted).max())

    def _wall_seconds(self, call: Callable[[int], Any], count: int) -> float:
        begin = time.perf_counter()
        with self.torch.inference_mode():
            for index in range(count):
                call(index)
            if self.on_gpu:
                self.torch.cuda.synchronize()
        return (time.perf_counter() - begin) / count

    def _kernel_microseconds(self, call: Callable[[int], Any], count: int) -> float:
        """Summed over all kernels that ``count`` calls ran; one stream runs one at a time."""
        profiler = self.torch.profiler
        with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as profile:
            self._wall_seconds(call, count)
        on_device = self.torch.autograd.DeviceType.CUDA
        events = [event for event in profile.key_averages() if event.device_type == on_device]
        total = sum(event.self_device_time_total for event in events)
        if not total:
            raise RuntimeError("torch.profiler saw no kernel")
        return total


def _call(run: Callable[..., Any], sets: list[Any], index: int) -> Any:
    return run(*sets[index % len(sets)])


def _wide(array: Any) -> np.ndarray:
    return array.double().cpu().numpy()
