"""Generate text from the command line.

    python -m experiments.generate --prompt="What is the capital of France?"
    python -m experiments.generate --prompt="Tell me a joke." --temperature=0.8 --top_p=0.95 --num_samples=3
    python -m experiments.generate --prompt_file=prompts.jsonl --out=answers.jsonl
    python -m experiments.generate --config=configs/generate/colours.py

The text goes to stdout as it appears, and nothing else does; with ``--json`` stdout holds one JSON object. Progress and the
closing line go to stderr. Exit status: 0, 2 for bad input, 130 after Ctrl-C (the text so far is kept).
"""

import os
import signal
import sys
from collections.abc import Sequence

from experiments.interrupts import STATUS, Interrupts

NOTHING = "Interrupted: nothing had been decoded yet."


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run, and turn what can go wrong into one line and an exit status.

    Args:
      arguments: the command line, the program's name first.
      interrupts: installed, if Ctrl-C is to be answered.
    """
    # Imported here, where Ctrl-C is answered already: together they take a second.
    from absl import flags, logging

    from experiments import answers, generate_flags

    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    values = generate_flags.define_flags()
    try:
        if generate_flags.parse(values, arguments):
            return answers.answer(values, interrupts)
        print(f"{__doc__}\n{values.get_help(include_special_flags=False)}", flush=True)
        return 0
    except KeyboardInterrupt:
        answers.say(NOTHING)
        return STATUS
    except BrokenPipeError:  # whoever read our output has had enough: the status of a process that SIGPIPE ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at the end
        return 128 + signal.SIGPIPE
    except (flags.Error, ValueError, OSError, FloatingPointError) as error:  # the last: a model that returns NaN
        answers.say(f"error: {error}")
        return 2


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost=NOTHING)
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
