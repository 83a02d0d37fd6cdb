"""From the command to the first word: ``python -m experiments.generate`` in a fresh process, files and programs cached."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.worker_process import WorkerError, child_environment

PROBE = Path(__file__).with_name("first_text.py")


class ColdStart:
    """Looks like a worker; every measurement is a process of its own.

    ``first_text_seconds`` runs from starting the process to the first text on its standard output, ``total_seconds`` to its
    end, and ``peak_rss_bytes`` is the largest resident set the kernel saw (see :mod:`experiments.benchmarks.first_text`).
    """

    def __init__(self, command: Sequence[str], description: dict[str, Any], report: Sequence[str] = ()):
        """Describe what is to be started.

        Args:
          command: streams a text to standard output.
          description: that of the engine the command uses.
          report: further arguments that make the command print one JSON object instead, with ``compile_seconds`` and
            ``tokens_per_call``; without them these are not known.
        """
        self.command = list(command)
        self.report = list(report)
        self.description = {name: value for name, value in description.items() if not name.startswith("load_")}
        self._peak_rss: int | None = None

    def call(self, method: str, **_: Any) -> dict[str, Any]:
        """``warm_up`` fills the caches and asks for the report, ``measure`` returns the metrics. One process each.

        Raises:
          WorkerError: the command failed, or wrote nothing.
        """
        words, said = _run([sys.executable, "-S", "-E", str(PROBE), *self.command])
        seen = json.loads(said)
        if seen.pop("status") or not seen.pop("wrote"):
            raise WorkerError(_failure(self.command, words))
        self._peak_rss = seen["peak_rss_bytes"]
        return {name: float(value) for name, value in seen.items()} if method == "measure" else self._report()

    def _report(self) -> dict[str, Any]:
        if not self.report:
            return {}
        words, said = _run([*self.command, *self.report])
        try:
            report = json.loads(said)
        except ValueError:
            raise WorkerError(_failure([*self.command, *self.report], words)) from None
        return {name: report[name] for name in ("compile_seconds", "tokens_per_call")}

    def cpu_seconds(self) -> float:
        """Processor seconds of all children that have ended: the workers live on, so these are the commands."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def reset_peak_rss(self) -> bool:
        """Every process begins anew."""
        return True

    def peak_rss(self) -> int | None:
        """Of the last process."""
        return self._peak_rss

    def close(self, patience: float = 0.0):
        """Nothing lives between the measurements."""


def _run(command: list[str]) -> tuple[str, str]:
    """Run a command in a session of its own; returns what it wrote on standard error and on standard output."""
    with tempfile.TemporaryFile(mode="w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=child_environment(), start_new_session=True, text=True
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the probe and what it runs
            process.communicate()
            raise
        log.seek(0)
        return log.read(), output


def _failure(command: list[str], words: str) -> str:
    words = words[-1500:].strip()
    last = words.splitlines()[-1] if words else "it wrote nothing"
    return f"{' '.join(command)} failed: {last}\n{words}".strip()
