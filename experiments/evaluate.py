"""Evaluate decoding methods on tasks: tokens per call, speed-up over plain decoding, and whether the text is the same.

    python -m experiments.evaluate --suite=list                       what there is
    python -m experiments.evaluate --suite=specbench                  the result goes to benchmarks/results/evaluation/
    python -m experiments.evaluate --suite=specbench --smoke          does it run? The result goes to out/evaluation/
    python -m experiments.evaluate --suite=specbench --limit=2 --rounds=1 --families=edit --methods=prompt_lookup,lookahead
    python -m experiments.evaluate --suite=specbench --text='corpora/*.txt'      drafters remember these texts as well
    python -m experiments.evaluate --suite=precision                  what bfloat16 and int8 cost and give, beside float32
    python -m experiments.evaluate --suite=precision --measure=timing      the timing again, the rest from the newest result
    python -m experiments.evaluate --suite=long_context               what rules cost and give that read or keep less
    python -m experiments.benchmark --render                          write docs/evaluation.md and the figures from the results

Progress goes to stderr, the tables and the path of the result to stdout. Finished parts are kept beside the result: after
Ctrl-C the same command goes on from there. Exit status: 0, whatever the verdicts; 1 for an engine that failed; 2 for bad input;
130 after Ctrl-C.
"""

import sys
from collections.abc import Sequence

from experiments.interrupts import Interrupts


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    from experiments.evaluation.command import run_command  # where Ctrl-C is answered already: this takes seconds

    return run_command(arguments, __doc__ or "")


if __name__ == "__main__":
    # Files appear whole or not at all and finished parts stay, so there is never anything to lose by ending at once.
    Interrupts(
        when_nothing_is_lost="Interrupted: finished parts are kept, the same command goes on from there."
    ).install()
    sys.exit(main(sys.argv))
