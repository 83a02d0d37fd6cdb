"""Reproduce the claims of a paper on a small scale.

    python -m experiments.reproduce --paper=list                            what there is
    python -m experiments.reproduce --paper=diverse_beam_search             the result goes to out/papers/diverse_beam_search
    python -m experiments.reproduce --paper=diverse_beam_search --smoke     does it run?
    python -m experiments.reproduce --paper=diverse_beam_search --out=DIR --config=my_config.py

Writes ``metrics.json``, ``report.md`` (each claim beside what was measured) and figures. The claims and the path of the report
go to stdout, progress to stderr. Finished parts are kept under ``DIR/parts``: after Ctrl-C the same command goes on from there.
The papers page shows the results in ``benchmarks/results/papers/NAME``. Exit status: 0, whatever the verdicts; 2 for bad input;
130 after Ctrl-C.
"""

import sys
from collections.abc import Sequence

from experiments.interrupts import Interrupts


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    from experiments.papers.command import run_command  # where Ctrl-C is answered already: this takes a second

    return run_command(arguments, __doc__ or "")


if __name__ == "__main__":
    # Files appear whole or not at all and finished parts stay, so there is never anything to lose by ending at once.
    Interrupts(
        when_nothing_is_lost="Interrupted: finished parts are kept, the same command goes on from there."
    ).install()
    sys.exit(main(sys.argv))
