"""Train a model.

    python -m experiments.train --config=configs/train/classifier_digits.py     goes to out/train/classifier_digits
    python -m experiments.train --config=configs/train/lm_text.py --out=DIR --steps=5000
    python -m experiments.train --config=configs/train/lm_text.py --config.optimizer.learning_rate=3e-4 --out=DIR
    python -m experiments.train --config=configs/train/lm_text.py --out=DIR --resume    goes on from the newest checkpoint
    python -m experiments.train --config=configs/train/lm_text.py --smoke               does it run?

The same command trains on one processor, one accelerator, all devices of a machine, and those of several machines;
docs/training.md says how. It writes ``config.json``, ``checkpoints``, ``metrics.jsonl``, TensorBoard ``events``, and at the end
``metrics.json`` and ``curves.svg``. What the evaluation found and the paths go to stdout, progress to stderr. Ctrl-C leaves a
checkpoint of the last update. Exit status: 0; 2 for bad input and for training that diverged; 130 after Ctrl-C.
"""

import sys
from collections.abc import Sequence

from experiments.interrupts import Interrupts


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run the command; returns its exit status."""
    from experiments.training.command import run_command  # where Ctrl-C is answered already: this takes seconds

    return run_command(arguments, __doc__ or "", interrupts)


if __name__ == "__main__":
    handler = Interrupts(
        when_nothing_is_lost="Interrupted before the first update: checkpoints of earlier runs are as they were."
    )
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
