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
    """A worker failed, died, or did not answer in time; the first line of the message says which and why."""


class WorkerProcess:
    """One engine in a process of its own (see :mod:`experiments.benchmarks.worker`).

    Attributes:
      description: what the engine says of itself once it is loaded, and ``load_peak_rss_bytes``, the largest resident set
        until then.
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
            # Compile times are those of compiling: nothing is read from a cache of earlier runs.
            env={**child_environment(), "JAX_ENABLE_COMPILATION_CACHE": "0"},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then closes the workers
        )
        self._unread = b""
        try:
            self.description: dict[str, Any] = self._receive()
        except BaseException:
            self.close(patience=0.0)
            raise
        self.description["load_peak_rss_bytes"] = self.peak_rss()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the engine and wait for what it returns.

        Raises:
          WorkerError: the method raised, or the worker is dead or did not answer in time (it is then killed, since a late
            answer would be taken for that of the next call).
        """
        if self._log.closed:
            raise WorkerError(f"worker {self.name} is closed")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": method, "arguments": arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._receive()

    def cpu_seconds(self) -> float | None:
        """Processor seconds used so far."""
        return machine.process_cpu_seconds(self.pid)

    def reset_peak_rss(self) -> bool:
        """Forget the largest resident set so far; returns whether the system could."""
        return machine.reset_peak_rss(self.pid)

    def peak_rss(self) -> int | None:
        """Largest resident set since it was forgotten, else since the start, in bytes."""
        return machine.process_peak_rss(self.pid)

    def last_words(self, characters: int = 1500) -> str:
        """Return the end of what the worker wrote on standard error."""
        # The worker writes through the same open file, so the file's position must not be moved.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), 4 * characters, max(0, size - 4 * characters))
        return tail.decode(errors="replace").strip()[-characters:]

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
                self.close(patience=0.0)
                raise WorkerError(f"worker {self.name} did not answer within {self.timeout:g} s")
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise self._death()
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"worker {self.name}: {reply['error']}")
        return reply["result"]

    def _death(self) -> WorkerError:
        """Bury a worker that has gone by itself, and say how it went."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)  # its output is closed, so it is about to end
        status, words = self._process.returncode, self.last_words()
        self.close(patience=0.0)
        last = words.splitlines()[-1] if words else "it said nothing"
        return WorkerError(f"worker {self.name} died with status {status}: {last}\n{words}".strip())


def child_environment() -> dict[str, str]:
    """Environment of a child process that finds this project first."""
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PROJECT_ROOT), *([inherited] if inherited else [])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
