"""The near end of a benchmark worker: start it, ask it, and see that it is gone afterwards."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import machine

PROJECT_ROOT = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """A worker failed, died, or did not answer in time; the message says which and why."""


class WorkerProcess:
    """One engine in a process of its own (see :mod:`experiments.benchmarks.worker`).

    Attributes:
      description: what the engine says of itself once it is loaded.
    """

    def __init__(self, name: str, target: str, options: dict[str, Any], *, timeout: float = 900.0):
        """Start ``target`` (``"module:class"``) with ``options`` and wait until it is loaded.

        Raises:
          WorkerError: it did not load.
        """
        self.name = name
        self.timeout = timeout
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (lives as long as the worker)
        command = [sys.executable, "-m", "experiments.benchmarks.worker", target, json.dumps(options)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then closes the workers
        )
        self._unread = b""
        try:
            self.description: dict[str, Any] = self._receive()
        except BaseException:
            self.close(patience=0.0)
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the engine and wait for what it returns.

        Raises:
          WorkerError: the method raised, or the worker died or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": method, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise WorkerError(f"worker {self.name} is gone; its last words:\n{self.last_words()}") from None
        return self._receive()

    def cpu_seconds(self) -> float | None:
        """Processor seconds used so far."""
        return machine.process_cpu_seconds(self.pid)

    def peak_rss(self) -> int | None:
        """Largest resident set so far, in bytes."""
        return machine.process_peak_rss(self.pid)

    def last_words(self, characters: int = 1500) -> str:
        """Return the end of what the worker wrote on standard error."""
        self._log.seek(0)
        return self._log.read()[-characters:].strip()

    def close(self, patience: float = 5.0):
        """End the worker: by closing its input, and if it does not go, by killing it."""
        if self._log.closed:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        end = time.monotonic() + self.timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise WorkerError(f"worker {self.name} did not answer within {self.timeout:.0f} s")
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise WorkerError(f"worker {self.name} died; its last words:\n{self.last_words()}")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"worker {self.name}: {reply['error']}")
        return reply["result"]


def child_environment() -> dict[str, str]:
    """Environment of a child process that finds this project first."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PROJECT_ROOT), *([inherited] if inherited else [])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
