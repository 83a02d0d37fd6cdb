"""What else the machine was doing while something was timed, and a name for the sort of machine it is.

A timing on a shared machine means little by itself. So each measurement is accompanied by its *foreign load*: processor
seconds that went to anybody but the process measured (time stolen by the hypervisor included), per second of wall time.
1.0 is one core kept busy by others.
"""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from experiments.record import cpu_info

QUIET_BUSY_FRACTION = 0.06
"""A machine is quiet when all its cores together are busy for less than this fraction of the time."""

SHORTEST_WINDOW = 0.2
"""Seconds below which a foreign load is not known: the kernel counts in hundredths of a second."""

PROC = Path("/proc")


class CpuTimes(NamedTuple):
    """Processor seconds since boot, summed over all cores."""

    busy: float
    idle: float
    stolen: float


def cpu_times(stat: Path = Path("/proc/stat")) -> CpuTimes | None:
    """Read the kernel's counters; None where there are none (not Linux)."""
    try:
        user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = (
            int(field) for field in stat.read_text().splitlines()[0].split()[1:9]
        )
    except (OSError, IndexError, ValueError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    return CpuTimes(busy / ticks, (idle + waiting) / ticks, stolen / ticks)


def process_cpu_seconds(pid: int, proc: Path = PROC) -> float | None:
    """Processor seconds of a process, all threads, and of its children that have ended."""
    try:
        # The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def process_peak_rss(pid: int, proc: Path = PROC) -> int | None:
    """Largest resident set of a process (``VmHWM``) since it began, or since :func:`reset_peak_rss`, in bytes."""
    try:
        line = re.search(r"^VmHWM:\s+(\d+) kB", (proc / str(pid) / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(line[1]) * 1024 if line else None


def reset_peak_rss(pid: int, proc: Path = PROC) -> bool:
    """Let the largest resident set of a process start again from its present one. Returns whether the system could."""
    try:
        file = os.open(proc / str(pid) / "clear_refs", os.O_WRONLY)  # never makes a file where there is none
        with os.fdopen(file, "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


class LoadMeter:
    """Foreign load between :meth:`start` and :meth:`stop`."""

    def __init__(self, own_cpu_seconds):
        """``own_cpu_seconds()`` returns the processor seconds of the process being measured."""
        self._own = own_cpu_seconds

    def start(self):
        """Remember the counters."""
        self._begin = (time.perf_counter(), cpu_times(), self._own())

    def stop(self) -> dict[str, float | None]:
        """Return ``foreign_load`` and ``stolen`` in cores (None where they are not known), and ``wall_seconds``."""
        wall = time.perf_counter() - self._begin[0]
        return self.load(wall, self._begin[1], cpu_times(), self._begin[2], self._own())

    @staticmethod
    def load(wall: float, before, after, own_before, own_after) -> dict[str, float | None]:
        """Subtract the process's own share from what the machine did."""
        if None in (before, after, own_before, own_after) or wall < SHORTEST_WINDOW:
            return {"foreign_load": None, "stolen": None, "wall_seconds": wall}
        foreign = (after.busy - before.busy) - (own_after - own_before)
        stolen = after.stolen - before.stolen
        return {"foreign_load": max(0.0, foreign / wall), "stolen": stolen / wall, "wall_seconds": wall}


def wait_quiet(seconds: float, window: float = 2.0) -> bool:
    """Wait up to ``seconds`` for the machine to be quiet over a ``window``. Returns whether it was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = cpu_times()
        time.sleep(window)
        after = cpu_times()
        if before is None or after is None:
            return False
        busy, idle = after.busy - before.busy, after.idle - before.idle
        if busy < QUIET_BUSY_FRACTION * (busy + idle):
            return True
    return False


def num_threads() -> int:
    """Processor threads this process may use; every engine is given this many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_tag(cpuinfo: Path = Path("/proc/cpuinfo"), threads: int | None = None) -> str:
    """Name the sort of machine, not the machine: ``amd-epyc-2t-avx512-vnni-bf16``. Results are compared within one sort."""
    cpu = cpu_info(cpuinfo)
    name = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", (cpu["model"] or "").lower()).strip() or "cpu"
    width = next((width for width in ("avx512f", "avx2", "avx") if width in cpu["flags"]), "")
    extras = [kind for kind in ("vnni", "bf16", "amx") if any(kind in flag for flag in cpu["flags"])]
    parts = [*name.split(), f"{threads or num_threads()}t", width.removesuffix("f"), *extras]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(filter(None, parts))).strip("-")
