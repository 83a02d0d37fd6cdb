"""Commands that write one thing, whole or not at all: their way from the command line to an exit status."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.interrupts import STATUS

if TYPE_CHECKING:
    from absl import flags

NOTHING = "Interrupted: nothing was written."


def run_command(
    arguments: Sequence[str],
    about: str | None,
    define_flags: Callable[[], "flags.FlagValues"],
    work: Callable[["flags.FlagValues"], None],
    interrupted: str = NOTHING,
) -> int:
    """Read the flags, do the work, and turn what can go wrong into one line on stderr.

    Args:
      arguments: the command line, the program's name first.
      about: what ``--help`` says above the flags.
      define_flags: makes the flags, ``help`` among them.
      work: what the command does; raises ``ValueError`` or ``OSError`` for bad input.
      interrupted: what to say after Ctrl-C.

    Returns:
      The exit status: 0, 2 for bad input, 130 after Ctrl-C.
    """
    # Imported here, where Ctrl-C is answered already.
    from absl import flags, logging

    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    values = define_flags()
    try:
        rest = values(["--help" if argument == "-h" else argument for argument in arguments])
        if len(rest) > 1:
            raise ValueError(f"{rest[1]!r} is not a flag; flags are written --name=value")
        if values.help:
            print(f"{about}\n{values.get_help(include_special_flags=False)}", flush=True)
            return 0
        work(values)
        return 0
    except KeyboardInterrupt:
        say(interrupted)
        return STATUS
    except (flags.Error, ValueError, OSError) as error:
        say(f"error: {error}")
        return 2


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)
