"""Suite ``kernels``: all operations and whole shared-prefix attention against the floor, and dense attention's peers.

Every operation of ``pallas_kernels`` by each backend that takes the arguments, in turns with peers that attend over a copied
prefix. The floor of a row is the larger of two times: the bytes that must move over the bandwidth of memory, and the
floating-point operations over the rate of matrix products. Both are measured in the same round on the same device in the same
type. The bandwidth is that of a copy or of reading alone, whichever is higher: attention mostly reads.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.benchmarks.harness import Case, summary
from experiments.benchmarks.kernels.shapes import KernelShape, shapes, work
from experiments.benchmarks.kernels.sides import sides_of
from experiments.benchmarks.kernels.targets import judge
from experiments.benchmarks.kernels.torch_engine import missing_packages
from experiments.benchmarks.machine import host_tag
from experiments.benchmarks.suite import Options, Session, Side, open_session, run_suite

ENGINE = "experiments.benchmarks.kernels.engine:KernelEngine"
TORCH_ENGINE = "experiments.benchmarks.kernels.torch_engine:TorchEngine"
MAIN_SIDE = "jaxdec-xla"
CEILINGS = "ceilings"


class SideOfWorker:
    """One of several sides that live in one process: passes on what is asked of it, with its name."""

    def __init__(self, worker: Any, side: str):
        """``worker``'s engine takes a ``side`` in ``warm_up`` and ``measure``."""
        self.worker, self.side = worker, side
        said = {name: value for name, value in worker.description.items() if name not in ("sides", "engines")}
        self.description = {**said, **worker.description["engines"].get(side, {})}

    def call(self, method: str, **arguments: Any) -> Any:
        """Ask the engine."""
        named = {"side": self.side} if method in ("warm_up", "measure") else {}
        return self.worker.call(method, **named, **arguments)

    def cpu_seconds(self) -> float | None:
        """Of the whole process."""
        return self.worker.cpu_seconds()

    def reset_peak_rss(self) -> bool:
        """Of the whole process."""
        return self.worker.reset_peak_rss()

    def peak_rss(self) -> int | None:
        """Of the whole process."""
        return self.worker.peak_rss()

    def close(self, patience: float = 5.0):
        """Ends the process, and with it all its sides."""
        self.worker.close(patience)


def run(options: Options, console: Console) -> Path:
    """Run the suite; returns the path of the result.

    Raises:
      WorkerError: our XLA backend fails or is wrong.
    """
    missing = missing_packages()
    reason = f"not installed: {', '.join(missing)} (pip install -e '.[peers]')" if missing else ""
    processes = [Side("jax", ENGINE, {}), Side("torch", TORCH_ENGINE, {}, peer=True, missing=reason)]
    with open_session(processes, console) as session:
        said = session.description("jax")
        platform = said["platform"]
        if "torch" in session.workers and (theirs := session.description("torch")["platform"]) != platform:
            session.leave_out("torch", f"runs on {theirs} here, and jax on {platform}")
        separate_sides(session)
        host = host_tag() if platform == "cpu" else re.sub(r"[^a-z0-9]+", "-", said["device"].lower()).strip("-")
        layout = cases(platform, smoke=options.smoke)
        settings = {"host": host, "main_side": MAIN_SIDE, "cases": layout, "options": options, "finish": complete}
        return run_suite("kernels", session=session, **settings)


def separate_sides(session: Session):
    """Give every side of the processes a worker of its own to be asked; those that cannot take part here are absent."""
    for process in list(session.workers):
        worker = session.workers[process]
        found = worker.description["sides"]
        session.workers |= {side: SideOfWorker(worker, side) for side in found}
        del session.workers[process]  # only now: whatever happens, it is closed
        if process in session.peers:
            session.peers |= set(found)
        for side, reason in found.items():
            if reason:
                session.absent.append({"side": side, "reason": reason})
                del session.workers[side]


def cases(platform: str, *, smoke: bool) -> list[Case]:
    """What the machine can do, and all operations at all shapes."""
    found = shapes(platform, smoke=smoke)
    seconds = 0.005 if smoke else 0.25 if platform == "cpu" else 0.02
    nbytes, n = (1 << 16, 64) if smoke else (1 << 28, 1536) if platform == "cpu" else (1 << 30, 8192)
    ceilings = {"nbytes": nbytes, "n": n, "dtype": found[0].dtype, "seconds": seconds}
    return [
        Case(CEILINGS, ("device",), "copy_gigabytes_per_second", ceilings),
        *(
            Case(shape.name, sides_of(shape.operation), "microseconds", {**shape._asdict(), "seconds": seconds})
            for shape in found
        ),
    ]


def complete(document: dict[str, Any], session: Session):
    """Add shapes, work, floors round by round, and the verdict on the targets."""
    assert session.record is not None
    ceilings = [entry["measurements"]["device"]["metrics"] for entry in session.record.chosen(CEILINGS)]
    arguments = {case["name"]: case["arguments"] for case in session.record.key["cases"]}
    for row in document["rows"]:
        if row["case"] != CEILINGS:
            shape = KernelShape.of(arguments[row["case"]])
            row |= {**shape._asdict(), "difference": session.warm[row["case"], row["side"]]["difference"]}
            row |= work(shape, row["side"])._asdict()
            row["metrics"] |= against_ceilings(row, ceilings)
    document["clock"] = session.description(MAIN_SIDE)["clock"]
    document["targets"] = judge(document)


def against_ceilings(row: Mapping[str, Any], ceilings: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What a row achieves of what the machine can do, round by round.

    Returns:
      ``floor_microseconds``, ``fraction_of_floor``, ``gigabytes_per_second``, ``fraction_of_copy`` (of its bandwidth),
      ``gigaflops_per_second``, each with median and range.
    """
    times = row["metrics"]["microseconds"]["samples"]
    floors = [floor_microseconds(row["bytes"], row["flops"], ceiling) for ceiling in ceilings]
    rates = [row["bytes"] / time / 1e3 for time in times]
    copies = [ceiling["copy_gigabytes_per_second"] for ceiling in ceilings]
    return {
        "floor_microseconds": summary(floors),
        "fraction_of_floor": summary(floor / time for floor, time in zip(floors, times, strict=True)),
        "gigabytes_per_second": summary(rates),
        "fraction_of_copy": summary(rate / copied for rate, copied in zip(rates, copies, strict=True)),
        "gigaflops_per_second": summary(row["flops"] / time / 1e3 for time in times),
    }


def floor_microseconds(nbytes: int, flops: int, ceiling: Mapping[str, float]) -> float:
    """The time that moving the bytes takes at least, or the operations, whichever is longer."""
    bandwidth = max(ceiling["copy_gigabytes_per_second"], ceiling["read_gigabytes_per_second"])
    return max(nbytes / bandwidth, flops / ceiling["gigaflops_per_second"]) / 1e3
