"""Progress of a replica on standard error: bars where that is a terminal, else a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

SECONDS_BETWEEN_LINES = 10.0
Advance = Callable[[str], None]
"""Called when one unit of a task is done, with a note on it (may be empty)."""


class Progress(Protocol):
    """Where tasks are shown."""

    def task(self, name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A task of ``total`` units; its bar goes when the block ends."""
        ...


class NoProgress:
    """Shows nothing."""

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda note: None


class Lines:
    """A line when a task begins, and every ten seconds."""

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        """Print lines."""
        done, told = 0, time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)

        def advance(note: str) -> None:
            nonlocal done, told
            done += 1
            if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                print(f"{name}: {done} of {total} {note}".rstrip(), file=sys.stderr, flush=True)

        yield advance


class _TerminalBars:
    def __init__(self, bars: Bars):
        self._bars = bars

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        task = self._bars.add_task(name, total=total, note="")
        yield lambda note: self._bars.update(task, advance=1, note=note)
        self._bars.remove_task(task)


@contextlib.contextmanager
def on_stderr() -> Iterator[Progress]:
    """Yield bars or lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    console = Console(stderr=True)
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        yield _TerminalBars(bars)
