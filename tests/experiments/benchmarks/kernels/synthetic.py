"""Results of the suite whose engines are made up: real documents with known numbers."""

import json
from typing import Any

from experiments.benchmarks.kernels.shapes import KernelShape
from experiments.benchmarks.kernels.suite import MAIN_SIDE, cases, complete, separate_sides
from experiments.benchmarks.suite import Options, Session, run_suite
from tests.experiments.benchmarks.synthetic import ENVIRONMENT, console

CEILING = {
    "copy_gigabytes_per_second": 100.0,
    "read_gigabytes_per_second": 200.0,
    "gigaflops_per_second": 1000.0,
    "launch_microseconds": 5.0,
}
PACE = {
    "jaxdec-xla": 1.0,
    "jaxdec-hopper": 0.5,
    "copied-xla": 1.5,
    "jax.nn-xla": 8.0,
    "jax.nn-cudnn": 6.0,
    "torch-sdpa": 4.0,
}
"""Microseconds per row."""


class FakeProcess:
    """Answers like an engine with several sides. ``refuses`` maps ``(operation, side)`` to a reason."""

    def __init__(self, sides: dict[str, str], refuses=(), **description: Any):
        self.refuses = dict(refuses)
        self.closed: list[float] = []
        self.rounds: dict[tuple[str, str], int] = {}
        self.description = {"engine": "jaxdec", "version": "1.0", "jax": "0.10.2", "platform": "cpu", "device": "cpu"}
        self.description |= {"clock": "host", "load_seconds": 1.0, "sides": sides, "engines": {}, **description}

    def call(self, method: str, side: str = "", **arguments: Any) -> Any:
        if method == "environment":
            return {**ENVIRONMENT, "device_kind": self.description["device"]}
        if side == "device":
            return {} if method == "warm_up" else CEILING
        shape = KernelShape.of(arguments)
        if method == "warm_up":
            reason = self.refuses.get((shape.operation, side))
            return {"refused": reason} if reason else {"compile_seconds": 2.5, "difference": 1e-6, "note": ""}
        self.rounds[shape.name, side] = round_ = self.rounds.get((shape.name, side), -1) + 1
        return {"microseconds": PACE[side] * shape.batch * (1 + 0.25 * round_)}

    def cpu_seconds(self) -> float:
        return 0.0

    def reset_peak_rss(self) -> bool:
        return True

    def peak_rss(self) -> int:
        return 700_000_000

    def close(self, patience: float = 5.0) -> None:
        self.closed.append(patience)


JAX_SIDES = {
    "device": "",
    MAIN_SIDE: "",
    "jaxdec-hopper": "runs on gpu, and jax sees cpu",
    "copied-xla": "",
    "jax.nn-xla": "",
}
TORCH = {"engine": "torch", "version": "torch 2", "engines": {"flashinfer": {"engine": "flashinfer", "version": "0.5"}}}
TORCH_SIDES = {"torch-sdpa": "", "flashinfer": "not installed: flashinfer"}


def kernel_session(sides=JAX_SIDES, refuses=(), **description: Any) -> Session:
    """A session of two processes, as it is before its sides are separated."""
    session = Session(console()[0], peers={"torch"})
    jax_versions = {"jax.nn-xla": {"engine": "jax", "version": "0.10.2"}}
    session.workers["jax"] = FakeProcess(dict(sides), refuses, **{"engines": jax_versions, **description})
    session.workers["torch"] = FakeProcess(dict(TORCH_SIDES), **TORCH)
    return session


def run_kernels(out, session: Session, *, platform="cpu", smoke=False, rounds=3):
    """Run the suite with made-up engines; returns the path of the result."""
    separate_sides(session)
    settings = {"host": "test-2t", "main_side": MAIN_SIDE, "cases": cases(platform, smoke=smoke), "finish": complete}
    return run_suite("kernels", session=session, options=Options(out=out, rounds=rounds, smoke=smoke), **settings)


def kernel_document(out, session: Session | None = None, **options: Any) -> dict[str, Any]:
    """The result as it is read back, with the stem that the page wants."""
    path = run_kernels(out, session or kernel_session(), **options)
    return {**json.loads(path.read_text()), "stem": path.stem}


def h200_document(out, **options: Any) -> dict[str, Any]:
    """A result of the device that targets are set for."""
    sides = {"device": "", MAIN_SIDE: "", "jaxdec-hopper": "", "copied-xla": "", "jax.nn-xla": "", "jax.nn-cudnn": ""}
    session = kernel_session(sides, platform="gpu", device="NVIDIA H200", clock="device")
    return kernel_document(out, session, platform="gpu", **options)
