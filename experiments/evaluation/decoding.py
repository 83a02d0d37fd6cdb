"""One arm under the stopwatch, in this process: a prompt in, tokens, times and counters out."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdec.compat import CompileClock
from jaxdec.decoding import Prompt
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative.engine import SpeculativeState
from jaxdec.decoding.state import bucket
from jaxdec.evaluation.acceptance import DraftCounts
from jaxdec.language_model import LanguageModel

SHORTEST = 96
"""Prompts are padded to this length times a power of two: two programs an arm instead of five."""


def padded_prompt(
    tokens: Sequence[int], max_new_tokens: int, eos_tokens: Sequence[int], model: LanguageModel
) -> Prompt:
    """A prompt of batch 1, padded to :data:`SHORTEST` times a power of two.

    Raises:
      ValueError: prompt and budget do not fit the model.
    """
    limits = {"vocab_size": model.vocab_size, "max_positions": model.max_positions}
    prompt = Prompt.create([list(tokens)], max_new_tokens, eos_tokens=eos_tokens, **limits)
    width = SHORTEST
    while width < len(tokens):
        width *= 2
    padding = ((0, 0), (0, width - len(tokens)))
    padded = jax.numpy.asarray(np.pad(np.asarray(tokens, np.int32)[None], padding))
    return prompt.replace(tokens=padded, capacity=bucket(width + max_new_tokens, smallest=64))


class ArmWorker:
    """An arm that :func:`experiments.benchmarks.harness.run_rounds` can measure, prompt by prompt.

    Attributes:
      compile_seconds: tracing, lowering and compiling, or reading the compilation cache, so far.
    """

    def __init__(
        self,
        method: Any,
        model: LanguageModel,
        prompts: Mapping[str, Prompt],
        companions: Callable[[str], Mapping[str, Any]] = lambda name: {},
    ):
        """``prompts`` by name; ``companions`` returns what accompanies the model at a prompt."""
        self.method, self.model, self.prompts, self.companions = method, model, prompts, companions
        self._clock = CompileClock()
        self._warm: set[Any] = set()

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
        """Arms share their process: the memory of one cannot be told."""
        return False

    def peak_rss(self) -> None:
        """See above."""
        return None

    def warm_up(self, name: str) -> None:
        """Decode the prompt once if nothing of its shape has been decoded, so that all is compiled."""
        model, prompt = self.inputs(name)
        shape = str([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((model.companions, prompt))])
        if shape not in self._warm:
            with self._clock:
                decode_timed(self.method, model, prompt)
            self._warm.add(shape)

    def measure(self, name: str) -> dict[str, Any]:
        """Decode the prompt called ``name``; see :func:`decode_timed`."""
        self.warm_up(name)
        return decode_timed(self.method, *self.inputs(name))[0]

    def inputs(self, name: str) -> tuple[LanguageModel, Prompt]:
        """Model with companions, and prompt."""
        return self.model.accompanied(**self.companions(name)), self.prompts[name]


def decode_timed(method: Any, model: LanguageModel, prompt: Prompt) -> tuple[dict[str, Any], Any]:
    """Decode, and return what can be told in JSON, and the last state.

    The clock runs while the compiled loop does: from the prompt's ids to the first token, and from there to the last.

    Returns:
      ``prefill_seconds``, ``decode_seconds``, ``tokens`` (ids in one string) and the fields of
      :class:`jaxdec.evaluation.acceptance.DraftCounts`.
    """
    begin = time.perf_counter()
    state = jax.block_until_ready(start(method, model, prompt))
    first = time.perf_counter()
    state = jax.block_until_ready(advance(method, model, state, UNLIMITED))
    last = time.perf_counter()
    decoded = method.result(state)
    length = int(decoded.length[0, 0])
    measured = {
        "prefill_seconds": first - begin,
        "decode_seconds": last - first,
        "tokens": " ".join(map(str, np.asarray(decoded.tokens)[0, 0, :length].tolist())),
        "new_tokens": length,
        "target_calls": int(decoded.target_calls[0, 0]),
    }
    if isinstance(state, SpeculativeState):
        measured |= {
            name: np.asarray(getattr(state.stats, name))[0].tolist() for name in ("drafted", "accepted", "fed")
        }
    return measured, state


def counts_of(measured: Mapping[str, Any]) -> DraftCounts:
    """The counters of :func:`decode_timed`."""
    by_depth: dict[str, Any] = {name: tuple(measured.get(name, ())) for name in ("drafted", "accepted")}
    numbers: dict[str, Any] = {name: measured[name] for name in ("new_tokens", "target_calls")}
    return DraftCounts(**numbers, **by_depth, fed=measured.get("fed", 0))
