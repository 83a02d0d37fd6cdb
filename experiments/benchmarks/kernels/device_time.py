"""How long an accelerator itself was busy, from a trace of jax's profiler.

Times seen from the host hold what it costs to hand a program over; many of these operations take less than that.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

LINES_OF_PROGRAMS = "XLA Modules"
MOST_CALLS = {"host": 20_000, "device": 50}  # a trace holds every one of them


def wall_seconds(call: Callable[[int], Any], count: int) -> float:
    """Seconds per call of ``count`` calls ``call(0), call(1), ...`` as the host sees them.

    On a processor each call is waited for. An accelerator works through a queue, and the last one is waited for.
    """
    wait_for_each = jax.default_backend() == "cpu"
    begin = time.perf_counter()
    result = None
    for index in range(count):
        result = call(index)
        if wait_for_each:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / count


def device_seconds(call: Callable[[int], Any], count: int) -> float | None:
    """Seconds per call that the accelerator was busy; None where the profiler sees no device."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.host_tracer_level = 1
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            wall_seconds(call, count)
        traces = sorted(Path(folder).rglob("*.xplane.pb"))
        busy = sum(busy_nanoseconds(jax.profiler.ProfileData.from_file(str(path)).planes) for path in traces)
    return busy * 1e-9 / count if busy else None


def clock() -> str:
    """What the time is taken from on this machine: ``"device"`` or ``"host"``."""
    if jax.default_backend() == "cpu":
        return "host"
    with contextlib.suppress(Exception):  # whatever keeps a profiler from running: the host's clock is left
        doubled = jax.jit(lambda array: array * 2)
        array = jax.block_until_ready(doubled(jax.numpy.ones(1 << 16)))
        if device_seconds(lambda index: doubled(array), 3):
            return "device"
    return "host"


def busy_nanoseconds(planes: Iterable[Any]) -> float:
    """Time in which anything ran on a device, summed over devices.

    A GPU's plane has a line for every stream, and events on them can overlap; other accelerators have one for whole programs.
    """
    total = 0.0
    for plane in planes:
        if not plane.name.startswith("/device:") or "CUSTOM" in plane.name.upper():
            continue
        lines = list(plane.lines)
        chosen = [line for line in lines if line.name.startswith("Stream")]
        chosen = chosen or [line for line in lines if line.name == LINES_OF_PROGRAMS] or lines
        events = [(event.start_ns, event.start_ns + event.duration_ns) for line in chosen for event in line.events]
        total += united(events)
    return total


def united(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for begin, finish in sorted(intervals):
        total += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return total
