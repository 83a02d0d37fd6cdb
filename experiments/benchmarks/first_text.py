"""Run a command, and report when its first text came, how long it took and how much memory it held.

    python -S experiments/benchmarks/first_text.py COMMAND ARGUMENT ...

Prints one JSON object. A process of its own, which imports next to nothing, because on Linux the peak resident set that a
child is charged with begins with that of the process that started it: a small parent measures small children rightly.
"""

import json
import os
import subprocess
import sys
import time


def measure(command: list[str]) -> dict[str, float | int | bool]:
    """Run ``command`` with its standard error passed through.

    Returns:
      ``status`` (exit status, negative for a signal), ``wrote`` (whether anything but white space came),
      ``first_text_seconds`` from starting the process to that first text, ``total_seconds`` to its end, ``peak_rss_bytes``.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.fileno()
    piece = os.read(output, 1 << 16)
    while piece and not piece.strip():
        piece = os.read(output, 1 << 16)
    first = time.perf_counter()
    while os.read(output, 1 << 16):
        pass
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter()
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "status": process.returncode,
        "wrote": bool(piece),
        "first_text_seconds": first - begin,
        "total_seconds": end - begin,
        "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
