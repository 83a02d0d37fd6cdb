"""What a dtype costs: the time of a plain step, of steps over several tokens, and of a prefill. Dtypes take turns."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.benchmarks.harness import Case, Record, loudest, summary
from jaxdec.compat import CompileClock
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import start
from jaxdec.decoding.speculative.step_cost import CONTEXT, step_times
from jaxdec.language_model import LanguageModel

COUNTS = (1, 4, 8, 16)
PREFILL = 512
CASE = "timing"


class DtypeWorker:
    """A model of one dtype that :func:`experiments.benchmarks.harness.run_rounds` can measure, in this process.

    Attributes:
      compile_seconds: of the warm-up: tracing, lowering and compiling, or reading the compilation cache.
    """

    def __init__(self, model: LanguageModel, prompt: Sequence[int], seconds: float):
        """``prompt`` is what the prefill feeds; ``seconds`` is about what each number of tokens of a step is timed for."""
        self._model, self._prompt, self._seconds = model, list(prompt), seconds
        self._clock = CompileClock()

    @property
    def compile_seconds(self) -> float:
        """See the class."""
        return self._clock.seconds

    def call(self, method: str, **arguments: Any) -> Any:
        """``measure`` or ``warm_up``."""
        return {"measure": self.measure, "warm_up": self.warm_up}[method](**arguments)

    def cpu_seconds(self) -> float:
        """Of this process."""
        return time.process_time()

    def reset_peak_rss(self) -> bool:
        """All dtypes share their process: the memory of one cannot be told."""
        return False

    def peak_rss(self) -> None:
        """See above."""
        return None

    def warm_up(self) -> None:
        """Compile everything."""
        with self._clock:
            step_times(self._model, COUNTS, seconds=0.0, repeats=1)
            self._prefill_seconds()

    def measure(self) -> dict[str, float]:
        """``ms_n`` of a pass over ``n`` tokens behind :data:`CONTEXT` committed ones, and ``prefill_tokens_per_second``.

        Passes are the shortest of two times (other work only adds), the prefill is fed twice as well.
        """
        passes = step_times(self._model, COUNTS, seconds=self._seconds, repeats=2)
        prefill = min(self._prefill_seconds() for _ in range(2))
        return {
            **{f"ms_{count}": milliseconds for count, milliseconds in passes.items()},
            "prefill_tokens_per_second": len(self._prompt) / prefill,
        }

    def _prefill_seconds(self) -> float:
        """From the prompt's ids to the first token."""
        inputs = Prompt.create([self._prompt], 1, vocab_size=self._model.vocab_size)
        begin = time.perf_counter()
        jax.block_until_ready(start(Autoregressive(), self._model, inputs))
        return time.perf_counter() - begin


def timing_case(dtypes: Sequence[str]) -> Case:
    """The one case of the suite."""
    return Case(CASE, tuple(dtypes), "ms_1")


def timing_rows(record: Record, dtypes: Sequence[str], reference: str) -> list[dict[str, Any]]:
    """One row per dtype: medians over the rounds, ratios taken inside a round.

    Returns:
      Rows with ``step_ms`` and ``step_over_reference``; ``relative``, ``T(n) / T(1)`` by ``n``; ``prefill_tokens_per_second``
      and ``prefill_over_reference``: each a median with min, max and samples.
    """
    chosen = [attempt["measurements"] for attempt in record.chosen(CASE)]
    rows = []
    for dtype in dtypes:
        own = [round_[dtype]["metrics"] for round_ in chosen]
        base = [round_[reference]["metrics"] for round_ in chosen]
        rate = "prefill_tokens_per_second"
        row = {
            "dtype": dtype,
            "step_ms": summary(entry["ms_1"] for entry in own),
            "step_over_reference": summary(a["ms_1"] / b["ms_1"] for a, b in zip(own, base)),
            "relative": {str(n): summary(entry[f"ms_{n}"] / entry["ms_1"] for entry in own) for n in COUNTS},
            rate: summary(entry[rate] for entry in own),
            "prefill_over_reference": summary(a[rate] / b[rate] for a, b in zip(own, base)),
        }
        rows.append(row)
    return rows


def load_of(record: Record) -> dict[str, Any]:
    """How quiet it was: rounds, loud ones, and the median of each round's largest foreign load (None where it is not known)."""
    chosen: list[Mapping[str, Any]] = list(record.chosen(CASE))
    known = [one for one in chosen if any(m["foreign_load"] is not None for m in one["measurements"].values())]
    return {
        "rounds": len(chosen),
        "loud_rounds": sum(attempt["loud"] for attempt in chosen),
        "foreign_load": statistics.median(map(loudest, known)) if known else None,
        "context": CONTEXT,
    }
