"""The far end of a benchmark: one engine in a process of its own, driven by JSON lines on standard input.

    python -m experiments.benchmarks.worker MODULE:CLASS '{"option": ...}'

The engine is built once; then each line ``{"call": METHOD, "arguments": {...}}`` is answered by one line
``{"result": ...}`` or ``{"error": TEXT}``. Between lines the process sleeps in a read. It ends with its standard input.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO


def serve(build: Callable[[], Any], requests: TextIO, replies: TextIO):
    """Build the engine, answer with its ``describe()``, then answer requests until they end.

    What is not JSON, NaN included, is an error of the engine like any other.
    """

    def answer(work: Callable[[], Any]) -> bool:
        try:
            reply = json.dumps({"result": work()}, allow_nan=False)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
            return False
        print(reply, file=replies, flush=True)
        return True

    engine: list[Any] = []
    if not answer(lambda: [engine.append(build()), engine[0].describe()][1]):
        return
    for line in requests:
        request = json.loads(line)
        answer(lambda request=request: getattr(engine[0], request["call"])(**request["arguments"]))


def main():
    """Serve the engine named on the command line."""
    target, options = sys.argv[1], json.loads(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not end up between the replies
    module, _, name = target.partition(":")
    serve(lambda: getattr(importlib.import_module(module), name)(**options), sys.stdin, replies)


if __name__ == "__main__":
    main()
