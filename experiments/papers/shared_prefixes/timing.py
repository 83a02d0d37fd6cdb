"""How long attention takes, and a whole step, with the prefix copied to every row and with one for all: in turns.

Ratios are taken inside a round. Each time is that of many passes inside one compiled loop, as decoding runs them.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.harness import turns
from experiments.benchmarks.machine import LoadMeter
from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes.caches import copied, formula, random_shared, tokens_held
from jaxdec.cache import ContiguousCache, SharedPrefixCache
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

AnyCache = ContiguousCache | SharedPrefixCache
MOST_PASSES = 2000


def in_turns(
    sides: Mapping[str, Callable[[int], Any]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time functions of a number of passes.

    Args:
      sides: by name; a first call, which is not timed, compiles.
      rounds: times per side.
      seconds: that one time should take; decides the number of passes.
      clock: tells the time.

    Returns:
      ``milliseconds``: by side, of one pass, round by round; ``foreign_load``: in cores, null if unknown.
    """
    passes = {}

    def timed(name: str, number: int) -> float:
        begin = clock()
        sides[name](number)
        return clock() - begin

    for name, call in sides.items():
        call(1)
        passes[name] = int(min(max(seconds / max(timed(name, 2) / 2, 1e-9), 1), MOST_PASSES))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    meter = LoadMeter(time.process_time)
    meter.start()
    for round_ in range(rounds):
        for name in turns(list(sides), round_):
            samples[name].append(1e3 * timed(name, passes[name]) / passes[name])
    return {"milliseconds": samples, "foreign_load": meter.stop()["foreign_load"]}


@jax.jit
def attention_passes(
    queries: Float[Array, "B 1 H E"], cache: AnyCache, passes: Int[Array, ""] | int
) -> Float[Array, "B 1 H E"]:
    """Attention of all layers, again and again, each on the result of the one before."""
    mask = cache.mask(1, None)
    layers = len((cache.own if isinstance(cache, SharedPrefixCache) else cache).keys)

    def once(_, x):
        for layer in range(layers):
            x = cache.attend(layer, x, mask)
        return x

    return jax.lax.fori_loop(0, passes, once, queries)


def attention_part(
    shapes: Sequence[tuple[int, int, int]],
    sizes: tuple[int, int, int],
    layers: int,
    rounds: int,
    seconds: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Attention alone.

    Args:
      shapes: rows, shared tokens and own tokens of each case.
      sizes: query heads, key/value heads, width of a head.
      layers: how many take turns, so that none finds its keys in the processor's cache.
      rounds: see :func:`in_turns`.
      seconds: see :func:`in_turns`.
      progress: shown meanwhile.

    Returns:
      Per case ``batch``, ``prefix``, ``suffix``, ``difference`` (largest, of one layer's output) and times per layer.
    """
    num_heads, num_kv_heads, width = sizes
    found = []
    with progress.task("attention", len(shapes)) as advance:
        for batch, prefix, suffix in shapes:
            shared = random_shared((layers, num_kv_heads, width), batch, prefix, suffix)
            caches = {"copied": copied(shared, 0), "shared": shared}
            rng = np.random.default_rng(1)
            queries = jnp.asarray(rng.standard_normal((batch, 1, num_heads, width)), jnp.float32)
            first = [cache.attend(0, queries, cache.mask(1, None)) for cache in caches.values()]
            sides = {
                name: lambda passes, cache=cache, queries=queries: attention_passes(
                    queries, cache, passes
                ).block_until_ready()
                for name, cache in caches.items()
            }
            times = in_turns(sides, rounds, seconds)
            times["milliseconds"] = {
                name: [time / layers for time in values] for name, values in times["milliseconds"].items()
            }
            case = {"batch": batch, "prefix": prefix, "suffix": suffix}
            found.append({**case, "difference": float(jnp.abs(first[0] - first[1]).max()), **times})
            advance(f"{batch} rows, {prefix} tokens")
    return found


@functools.partial(jax.jit, donate_argnums=1)
def step_passes(model: LanguageModel, cache: AnyCache, tokens: Int[Array, "B 1"], passes: Int[Array, ""] | int):
    """One token per row, again and again behind the same entries; returns the last logits and the cache."""
    positions = cache.length[:, None]
    logits = jnp.zeros((tokens.shape[0], 1, model.vocab_size), jnp.float32)

    def once(_, carry):
        tokens, cache, _ = carry
        output = model(tokens, positions, cache)
        return jnp.argmax(output.logits, -1).astype(tokens.dtype), output.cache, output.logits.astype(jnp.float32)

    _, cache, logits = jax.lax.fori_loop(0, passes, once, (tokens, cache, logits))
    return logits, cache


class _Stepper:
    """Steps over a cache in a box, from which it is taken and to which it is given back, as it is donated."""

    def __init__(self, model: LanguageModel, box: list[AnyCache], own_length: int | None = None):
        self.model, self.box, self.own_length = model, box, own_length

    def __call__(self, passes: int) -> Float[Array, "B 1 V"]:
        cache = self.box.pop()
        rows = cache.length.shape[0]
        if isinstance(cache, ContiguousCache) and self.own_length is not None:
            cache = cache.replace(length=jnp.full(rows, self.own_length, jnp.int32))
        tokens = jnp.arange(rows, dtype=jnp.int32)[:, None] + 1
        logits, cache = step_passes(self.model, cache, tokens, passes)
        self.box.append(cache)
        return jax.block_until_ready(logits)


def step_part(
    model: LanguageModel,
    batches: Sequence[int],
    prefixes: Sequence[int],
    suffix: int,
    rounds: int,
    seconds: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Whole steps of a model: prefix copied, prefix shared, and no prefix at all.

    Returns:
      Per case ``batch``, ``prefix``, ``suffix``, ``difference`` (largest, of the logits with and without sharing), ``held``
      (tokens, by side), ``formula`` (their ratio) and times per step.
    """
    empty = model.init_cache(1, 1)
    assert isinstance(empty, ContiguousCache)
    sizes = (len(empty.keys), empty.keys[0].shape[1], empty.keys[0].shape[3])
    found = []
    with progress.task("steps", len(batches) * len(prefixes)) as advance:
        for batch in batches:
            for prefix in prefixes:
                shared = random_shared(sizes, batch, prefix, suffix)
                whole = copied(shared, max(prefixes) + shared.own.capacity)
                held = {"copied": tokens_held(whole), "shared": tokens_held(shared)}
                box: list[AnyCache] = [whole]  # two sides have one cache: it is the largest thing here
                sides = {
                    "copied": _Stepper(model, box, prefix + suffix),
                    "shared": _Stepper(model, [shared]),
                    "none": _Stepper(model, box, suffix),
                }
                del whole, shared
                difference = float(jnp.abs(sides["copied"](1) - sides["shared"](1)).max())
                case = {"batch": batch, "prefix": prefix, "suffix": suffix, "difference": difference, "held": held}
                times = in_turns(sides, rounds, seconds)
                found.append({**case, "formula": formula(batch, prefix, suffix), **times})
                advance(f"{batch} rows, {prefix} tokens")
    return found


def speed_ups(case: Mapping[str, Any], slow: str = "copied", quick: str = "shared") -> list[float]:
    """Ratio of times, round by round."""
    times = case["milliseconds"]
    return [one / two for one, two in zip(times[slow], times[quick], strict=True)]
