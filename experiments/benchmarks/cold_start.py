"""From the command to the first word: ``python -m experiments.generate`` in a fresh process, files and programs cached."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.benchmarks.worker_process import WorkerError, child_environment


class ColdStart:
    """Looks like a worker; every measurement is a process of its own.

    ``first_text_seconds`` runs from starting the process to the first text on its standard output, ``total_seconds`` to its
    end, and ``peak_rss_bytes`` is the largest resident set the kernel saw.
    """

    def __init__(self, command: list[str], description: dict[str, Any]):
        """``command`` streams a text; ``description`` is that of the engine it uses."""
        self.command = command
        self.description = {**description, "load_seconds": None}
        self._peak_rss: int | None = None

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """``warm_up`` fills the caches, ``measure`` returns the metrics. One process each.

        Raises:
          WorkerError: the command failed, or wrote nothing.
        """
        with tempfile.TemporaryFile(mode="w+") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, env=child_environment(), start_new_session=True
            )
            assert process.stdout is not None
            try:
                piece = os.read(process.stdout.fileno(), 1 << 16)
                while piece and not piece.strip():
                    piece = os.read(process.stdout.fileno(), 1 << 16)
                first = time.perf_counter()
                process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            except BaseException:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()
            end = time.perf_counter()
            if process.returncode or not piece:
                log.seek(0)
                words = log.read()[-1500:].strip()
                raise WorkerError(f"{' '.join(self.command)} ended with {process.returncode}:\n{words}")
        self._peak_rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if method == "warm_up":
            return {}
        return {
            "first_text_seconds": first - begin,
            "total_seconds": end - begin,
            "peak_rss_bytes": float(self._peak_rss),
        }

    def cpu_seconds(self) -> float:
        """Processor seconds of all children that have ended: the workers live on, so these are the commands."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def peak_rss(self) -> int | None:
        """Of the last process."""
        return self._peak_rss

    def close(self):
        """Nothing lives between the measurements."""
