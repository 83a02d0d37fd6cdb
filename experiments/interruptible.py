"""A decoding run that Ctrl-C ends between two steps."""

from collections.abc import Iterator
from typing import Any

from experiments.interrupts import Interrupts
from jaxdec.generation import Run


class InterruptibleRun(Run):
    """A :class:`jaxdec.Run` that ends early, its results kept, when somebody asks for it; texts end as ``"interrupted"``."""

    def __init__(self, lm: Any, prompts: Any, *, interrupts: Interrupts, **options: Any):
        """``interrupts`` is asked after every step; from the first tokens on it knows that there is something to keep."""
        super().__init__(lm, prompts, **options)
        self._interrupts = interrupts

    def states(self, steps: int = 1) -> Iterator[bool]:
        """As of :class:`jaxdec.Run`; the last one may be of texts that are not finished."""
        for finished in super().states(steps):
            self._interrupts.keep_results()
            yield finished
            if self._interrupts.requested:
                return
