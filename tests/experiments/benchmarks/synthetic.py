"""Results of suites whose engines are made up: real documents with known numbers."""

import io
import json
from typing import Any

from rich.console import Console

from experiments.benchmarks import cpu_decode, gpu_decode
from experiments.benchmarks.suite import Options, Session, run_suite
from experiments.benchmarks.worker_process import WorkerError

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "c" * 40,
    "dirty": False,
    "jax": "0.10.2",
    "device_kind": "cpu",
    "cpu_model": "Test CPU",
    "cpu_flags": ["avx", "avx2"],
    "cores": 2,
}
RATES = {
    ("decode", "jaxdec-float32"): 50.0,
    ("decode", "jaxdec-bfloat16"): 40.0,
    ("decode", "transformers-float32"): 20.0,
    ("decode", "transformers-bfloat16"): 25.0,
    ("decode", "llama.cpp"): 100.0,
    ("prefill", "jaxdec-float32"): 400.0,
    ("prefill", "jaxdec-bfloat16"): 600.0,
    ("prefill", "transformers-float32"): 300.0,
    ("prefill", "transformers-bfloat16"): 800.0,
    ("prefill", "llama.cpp"): 200.0,
}
WEIGHTS_BYTES = 500_000_000


class FakeWorker:
    """Answers like an engine; ``fails`` names the methods that raise, ``interrupt_at`` the measurement that Ctrl-C hits."""

    def __init__(self, side: str, fails: tuple[str, ...] = (), interrupt_at: int | None = None):
        engine, _, dtype = side.partition("-")
        self.side, self.fails, self.interrupt_at = side, fails, interrupt_at
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.closed: list[float] = []
        self.measured: dict[str, int] = {}
        self.description = {"engine": engine, "version": f"{engine} 1.0", "dtype": dtype, "load_seconds": 3.0}
        self.description |= {"num_params": 125_000_000, "weights_bytes": WEIGHTS_BYTES}

    def call(self, method: str, **arguments: Any) -> Any:
        self.calls.append((method, arguments))
        if method in self.fails:
            raise WorkerError(f"worker {self.side}: broken\nand more")
        if method == "measure":
            if self.interrupt_at == sum(self.measured.values()):
                raise KeyboardInterrupt
            return self.metrics(arguments)
        answers = {
            "environment": ENVIRONMENT,
            "warm_up": {"tokens_per_call": 1.0, "compile_seconds": 2.5, "tokens": [7, 8, 9], "note": f"by {self.side}"},
            "token_logits": [2.0, 1.5],
        }
        return answers[method]

    def metrics(self, arguments: dict[str, Any]) -> dict[str, float]:
        kind = arguments.get("kind", "cold_start")
        batch = arguments.get("batch", 1)
        name = kind if batch == 1 else f"{kind} {batch}"
        drift = 1 + 0.01 * self.measured.setdefault(name, 0)
        self.measured[name] += 1
        if kind == "cold_start":
            return {"first_text_seconds": 4.0 * drift, "total_seconds": 5.0 * drift, "peak_rss_bytes": 1e9}
        if kind == "step_cost":
            steps = {n: (20.0 + 2 * n) * drift for n in arguments["rows"]}
            relative = {f"relative_{n}": value / steps[1] for n, value in steps.items()}
            floors = {"floor_ms": 20.0, "flat_floor_ms": 16.0, "step_over_floor": 1.1, "step_over_flat_floor": 1.375}
            return {**{f"ms_{n}": value for n, value in steps.items()}, **relative, **floors}
        if kind == "copy":
            return {"gigabytes_per_second": 1000.0 * drift}
        rate = RATES.get((kind, self.side), 80.0) * drift
        return {"tokens_per_second": rate, "step_ms": 1e3 * batch / rate, "first_token_ms": 30.0}

    def cpu_seconds(self) -> float:
        return 0.0

    def reset_peak_rss(self) -> bool:
        return self.side != "llama.cpp"

    def peak_rss(self) -> int:
        return 700_000_000

    def close(self, patience: float = 5.0) -> None:
        self.closed.append(patience)


def console() -> tuple[Console, io.StringIO]:
    """A console to read."""
    text = io.StringIO()
    return Console(file=text, width=200), text


def cpu_session(*missing: str, **workers: FakeWorker) -> Session:
    """A session of ``cpu_decode`` with all engines but the missing ones."""
    sides = [*cpu_decode.OURS, *cpu_decode.PEERS, "command"]
    session = Session(console()[0], peers=set(cpu_decode.PEERS))
    session.workers = {side: workers.get(side, FakeWorker(side)) for side in sides if side not in missing}
    session.absent = [{"side": side, "reason": "not installed"} for side in missing]
    if "command" in session.workers:
        session.workers["command"].description = dict(session.workers["jaxdec-float32"].description)
    return session


def run_cpu(out, session, *, rounds=3, smoke=False, **options):
    """Run the suite with made-up engines; returns the path of the result."""
    cases = cpu_decode.cases([1, 2, 3], 6, list(range(32)), 16, (1, 2, 4), seconds=0.1)
    settings = Options(out=out, rounds=rounds, smoke=smoke, **options)
    described = {"host": "test-2t", "main_side": "jaxdec-float32", "cases": cases, "options": settings}
    return run_suite("cpu_decode", session=session, finish=cpu_decode.complete, **described)


def cpu_document(out, *missing, **options) -> dict[str, Any]:
    """The result as it is read back, with the stem that the page wants."""
    path = run_cpu(out, cpu_session(*missing), **options)
    return {**json.loads(path.read_text()), "stem": path.stem}


def gpu_document(out) -> dict[str, Any]:
    """A result of ``gpu_decode``."""
    session = Session(console()[0])
    worker = session.workers[gpu_decode.SIDE] = FakeWorker(gpu_decode.SIDE)
    worker.description |= {
        "weights_bytes_per_step": 4e9,
        "kv_bytes_per_token": 1e5,
        "vocab_size": 256,
        "device": "H100",
    }
    settings = {"host": "h100", "main_side": gpu_decode.SIDE, "cases": gpu_decode.cases(256, smoke=False)}
    options = Options(out=out, rounds=3)
    path = run_suite("gpu_decode", session=session, options=options, finish=gpu_decode.complete, **settings)
    return {**json.loads(path.read_text()), "stem": path.stem}
