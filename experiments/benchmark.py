"""Measure how fast decoding is, against peers and against the floor the hardware sets.

    python -m experiments.benchmark --suite=list            what there is
    python -m experiments.benchmark --suite=cpu_decode      measure; the result goes to benchmarks/results/
    python -m experiments.benchmark --suite=cpu_decode --smoke      does it run? The result goes to out/benchmarks/
    python -m experiments.benchmark --render                write docs/benchmarks.md, docs/papers.md and the figures
    python -m experiments.benchmark --render --check        exit 1 if the pages are not what the results say

Engines run in processes of their own and take turns; load of other processes is recorded with every measurement, and loud
rounds are repeated. Ctrl-C keeps the rounds measured so far: the same command goes on from there. Exit status: 0; 1 for an
engine of ours that failed, or a page that --check found stale; 2 for bad input; 130 after Ctrl-C.
"""

import gc
import sys
from collections.abc import Sequence

from experiments.interrupts import Interrupts


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run the command; returns its exit status.

    Args:
      arguments: the command line, the program's name first.
      interrupts: what answers Ctrl-C until the command does.
    """
    from experiments.benchmarks.command import run_command  # where Ctrl-C is answered already: this takes a second

    gc.disable()  # a Ctrl-C during a collection would be lost in jax's callback, and the engines are elsewhere anyway
    try:
        with interrupts.raising():
            return run_command(arguments, __doc__ or "")
    finally:
        gc.enable()


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost="Interrupted: nothing had been measured yet.")
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
