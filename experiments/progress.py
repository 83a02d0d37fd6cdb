"""Progress on standard error: a bar where that is a terminal, else a line when there is something new to say."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def decoding_progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """Yield ``report(tokens, what)``, to be called as decoding goes on.

    Args:
      total: tokens that would make the bar full. Decoding may end before.
    """
    with _bar(total) if sys.stderr.isatty() else _lines() as report:
        yield report


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens")]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Compiling", total=total)
        yield lambda tokens, what: progress.update(task, completed=tokens, description=what)


@contextlib.contextmanager
def _lines() -> Iterator[Callable[[int, str], None]]:
    told = float("-inf")

    def report(tokens: int, what: str):
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            print(f"{what}: {tokens} tokens so far", file=sys.stderr, flush=True)

    yield report
