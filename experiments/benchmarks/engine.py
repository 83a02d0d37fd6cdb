"""jaxdec under the stopwatch: decoding, prefill, the cost of a step against its rows, and the floor under that cost.

Runs inside a worker process. Rates follow one definition on all sides: decoding is ``new tokens - 1`` over the time from the
first new token to the last; prefill is prompt tokens over the time from the prompt's ids to the first new token's id.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import machine
from experiments.benchmarks.random_weights import SHAPES, random_model
from experiments.record import environment
from jaxdec.compat import CompileClock
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.state import Decoded, bucket
from jaxdec.language_model import LanguageModel


class JaxdecEngine:
    """One model in one dtype."""

    def __init__(self, model: str, dtype: str):
        """``model`` is anything ``jaxdec.load`` takes, or a name in :data:`SHAPES` for random weights."""
        begin = time.perf_counter()
        self.tokenizer = None
        if model in SHAPES:
            self.model = random_model(SHAPES[model], dtype)
        else:
            from jaxdec.loading import load

            loaded = load(model, dtype=dtype)
            self.model, self.tokenizer = loaded.model, loaded.tokenizer
        jax.block_until_ready(self.model.params)
        self.load_seconds = time.perf_counter() - begin
        self.dtype = dtype

    def describe(self) -> dict[str, Any]:
        """Version, sizes and device."""
        import jaxdec

        return {
            "engine": "jaxdec",
            "version": jaxdec.__version__,
            "dtype": self.dtype,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "platform": jax.devices()[0].platform,
            "threads": machine.num_threads(),
            "num_params": self.model.num_params(),
            "weights_bytes": self.model.nbytes(),
            "vocab_size": self.model.vocab_size,
            "load_seconds": self.load_seconds,
        }

    def environment(self) -> dict[str, Any]:
        """Hardware, versions and commit, seen from the process that holds the device."""
        return environment()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already carries its special tokens."""
        if self.tokenizer is None:
            raise ValueError("a model with random weights has no tokenizer")
        return self.tokenizer.encode(text, add_bos=False)

    def warm_up(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Compile and run once. Returns ``compile_seconds`` and, of a decoding, ``tokens`` and ``tokens_per_call``."""
        clock = CompileClock()
        with clock:
            result = getattr(self, f"_{kind}")(**arguments, warm_up=True)
        return {"compile_seconds": clock.seconds, **result}

    def measure(self, kind: str, **arguments: Any) -> dict[str, float]:
        """Run once more, without compiling. Returns the metrics of the kind."""
        return getattr(self, f"_{kind}")(**arguments, warm_up=False)

    def token_logits(self, context: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Logits of ``tokens`` as the next one behind ``context``."""
        prompt = Prompt.create([list(context)], 1)
        positions = jnp.arange(prompt.tokens.shape[1])[None]
        last = prompt.length[:, None] - 1
        cache = self.model.init_cache(1, prompt.capacity)
        logits = jax.jit(LanguageModel.__call__)(self.model, prompt.tokens, positions, cache, None, last).logits
        return [float(logits[0, 0, token]) for token in tokens]

    def _decode(self, prompt: Sequence[int], new_tokens: int, batch: int, warm_up: bool) -> dict[str, Any]:
        """Greedy, the end token ignored: every run does the same work."""
        method = Autoregressive()
        inputs = Prompt.create([list(prompt)] * batch, new_tokens, vocab_size=self.model.vocab_size)
        begin = time.perf_counter()
        state = jax.block_until_ready(start(method, self.model, inputs))
        first = time.perf_counter()
        state = jax.block_until_ready(advance(method, self.model, state, UNLIMITED))
        last = time.perf_counter()
        if warm_up:
            decoded = method.result(state)
            tokens = decoded.tokens[0, 0, : decoded.length[0, 0]]
            return {"tokens": tokens.tolist(), "tokens_per_call": tokens_per_call(decoded)}
        return {
            "tokens_per_second": batch * (new_tokens - 1) / (last - first),
            "step_ms": (last - first) / (new_tokens - 1) * 1e3,
            "first_token_ms": (first - begin) * 1e3,
        }

    def _prefill(self, prompt: Sequence[int], warm_up: bool) -> dict[str, Any]:
        inputs = Prompt.create([list(prompt)], 1, vocab_size=self.model.vocab_size)
        method = Autoregressive()
        begin = time.perf_counter()
        state = jax.block_until_ready(start(method, self.model, inputs))
        seconds = time.perf_counter() - begin
        if warm_up:
            return {"tokens_per_call": tokens_per_call(method.result(state))}
        return {"tokens_per_second": len(prompt) / seconds, "first_token_ms": seconds * 1e3}

    def _step_cost(self, context: int, rows: Sequence[int], seconds: float, warm_up: bool) -> dict[str, Any]:
        """One forward pass over ``n`` new tokens behind ``context`` committed ones, for each ``n`` (1 among them); the floor.

        Each pass runs in a compiled loop whose cache is donated, as decoding does; the argmax at every new token is what
        verification would ask for. ``seconds`` is spent on each ``n``, ``relative_n`` is ``T(n) / T(1)``.
        """
        if warm_up:
            self._counts = {n: self._enough(context, n, seconds) for n in rows}
            self._floor()
            return {}
        floor = self._floor()
        milliseconds = {n: self._step_ms(context, n, count) for n, count in self._counts.items()}
        one = milliseconds[1]
        return {
            **{f"ms_{n}": value for n, value in milliseconds.items()},
            **{f"relative_{n}": value / one for n, value in milliseconds.items()},
            **floor,
            "step_over_floor": one / floor["floor_ms"],
            "step_over_flat_floor": one / floor["flat_floor_ms"],
        }

    def _enough(self, context: int, n: int, seconds: float, passes: int = 3) -> int:
        """Number of passes that take about ``seconds``, at least 2."""
        jax.block_until_ready(self._steps(context, n, passes)())
        milliseconds = timed_ms(lambda: self._steps(context, n, passes)) / passes
        return max(2, math.ceil(seconds * 1e3 / milliseconds))

    def _step_ms(self, context: int, n: int, count: int) -> float:
        """Time of ``count + 1`` passes less the time of one: what the program does once and for all drops out."""
        jax.block_until_ready(self._steps(context, n, 1)())  # the first after others had the machine finds cold caches
        one = min(timed_ms(lambda: self._steps(context, n, 1)) for _ in range(3))
        return (timed_ms(lambda: self._steps(context, n, count + 1)) - one) / count

    def _steps(self, context: int, n: int, count: int) -> Callable[[], Any]:
        """Return a call that runs ``count`` passes; what it needs is made before the clock starts."""
        cache = self.model.init_cache(1, bucket(context + n)).commit(None, jnp.full((1,), context, jnp.int32))
        tokens = jax.block_until_ready(jnp.arange(n, dtype=jnp.int32)[None] % self.model.vocab_size)
        return functools.partial(run_steps, self.model, tokens, cache, count)

    def _floor(self, repeats: int = 5) -> dict[str, float]:
        """Time to read the weights once: the least a step can take that reads each weight once.

        ``floor_ms``: one program that sums every weight array as it lies, on all cores. ``flat_floor_ms``: the same number
        of bytes in one array. Medians of ``repeats``.
        """
        leaves = jax.tree.leaves(self.model.params)
        flat = jnp.ones(sum(leaf.nbytes for leaf in leaves) // leaves[0].dtype.itemsize, leaves[0].dtype)
        jax.block_until_ready((read(leaves), read([flat])))
        return {
            "floor_ms": statistics.median(timed_ms(lambda: functools.partial(read, leaves)) for _ in range(repeats)),
            "flat_floor_ms": statistics.median(
                timed_ms(lambda: functools.partial(read, [flat])) for _ in range(repeats)
            ),
        }


def tokens_per_call(decoded: Decoded) -> float:
    """New tokens of the first text per forward pass that worked on it."""
    return int(decoded.length[0, 0]) / int(decoded.target_calls[0, 0])


@jax.jit
def read(arrays: list[jax.Array]) -> list[jax.Array]:
    """Sum each array: reads it once and writes next to nothing."""
    return [array.sum(dtype=jnp.float32) for array in arrays]


@functools.partial(jax.jit, donate_argnums=2)
def run_steps(model: LanguageModel, tokens: jax.Array, cache: Any, count: int) -> tuple[jax.Array, Any]:
    """Append ``tokens int32[1, n]`` ``count`` times behind the same committed entries, feeding each argmax back."""
    positions = cache.length[:, None] + jnp.arange(tokens.shape[1])

    def step(_, carry):
        tokens, cache = carry
        output = model(tokens, positions, cache)
        return jnp.argmax(output.logits, axis=-1).astype(jnp.int32), output.cache

    return jax.lax.fori_loop(0, count, step, (tokens, cache))


def timed_ms(prepare: Callable[[], Callable[[], Any]]) -> float:
    """Milliseconds that the call which ``prepare`` returns takes to finish."""
    call = prepare()
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return (time.perf_counter() - begin) * 1e3


def synthetic_tokens(count: int, vocab_size: int, seed: int = 0) -> list[int]:
    """Token ids for models that know no text."""
    return np.random.default_rng(seed).integers(0, vocab_size, count).tolist()
