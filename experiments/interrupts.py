"""What Ctrl-C does to a launcher: end at once while there is nothing to lose, later end with what there is.

Python's own answer, a ``KeyboardInterrupt`` wherever the program happens to be, is not fit for this: raised while an extension
module is imported it crashes that module, and raised in a garbage-collection callback, of which jax has one, it is lost.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

STATUS = 128 + signal.SIGINT


class Interrupts:
    """A handler of SIGINT.

    Attributes:
      requested: somebody wants us to stop. Loops look at it between two steps.
    """

    def __init__(self, when_nothing_is_lost: str):
        """``when_nothing_is_lost`` is the line for standard error when the process ends at once."""
        self.requested = False
        self._line = when_nothing_is_lost
        self._keep = False

    def install(self) -> None:
        """Handle SIGINT from now to the end of the process. Only the main thread can."""
        signal.signal(signal.SIGINT, self._handle)

    def ignore(self) -> None:
        """Ignore SIGINT from now on: all is done, and an interpreter that is going down has no handler."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def keep_results(self) -> None:
        """From now on the first Ctrl-C only sets :attr:`requested`; a second one ends the process all the same."""
        self._keep = True

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within this block Ctrl-C is a ``KeyboardInterrupt``: for plain Python that has something to tidy up."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, *_: Any) -> None:
        if self._keep and not self.requested:
            self.requested = True
            return
        line = "Interrupted twice: ended at once." if self.requested else self._line
        # Written past Python's buffers, which the interrupted code may be using. A terminal gets its line and cursor back.
        terminal = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{terminal}{line}\n".encode())
        os._exit(STATUS)
