"""How long a forward pass takes against its number of new tokens, measured once per machine and model, and remembered.

The cost of verifying ``n`` guesses decides whether guessing pays. On a GPU a pass over a few tokens costs what one token costs,
as both wait for the weights; on a processor it does not. The curve ``T(n) / T(1)`` is therefore measured, in a compiled loop
whose cache is donated, as decoding does.
"""

import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.cache import Cache
from jaxdec.compat import cache_home
from jaxdec.decoding.state import bucket
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Int

CONTEXT = 256
SECONDS = 0.3


def relative_step_cost(
    model: LanguageModel, counts: Sequence[int], batch: int = 1, folder: Path | None = None
) -> dict[int, float]:
    """``T(n) / T(1)`` for each ``n`` of ``counts``; 1 for ``n = 1``.

    Args:
      model: whose passes are timed.
      counts: numbers of new tokens per row.
      batch: rows.
      folder: where curves are kept; ``step_cost`` in the cache folder by default. A folder that cannot be written to means
        that the curve is measured each time.
    """
    path = (folder or cache_home() / "step_cost") / f"{machine_and_model(model, batch)}.json"
    try:
        known = {int(n): cost for n, cost in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        known = {}
    if any(n not in known and n != 1 for n in counts):
        # All sizes anew and in turns: what else the machine did meanwhile must not make one size look cheap for good.
        known = rising(step_times(model, sorted({1, *known, *counts}), batch))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps({str(n): cost for n, cost in sorted(known.items())}))
            os.replace(draft, path)
        except OSError:
            pass  # a cache is a convenience
    return {n: 1.0 if n == 1 else known[n] for n in counts}


def machine_and_model(model: LanguageModel, batch: int) -> str:
    """A name for what the curve depends on: device, threads, jax, shapes and types of the model, rows."""
    shapes = sorted((jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype)) for path, leaf in _leaves(model.params))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    facts = (
        device.platform,
        device.device_kind,
        _cpu_flags(),
        threads,
        jax.__version__,
        repr(model.module),
        shapes,
        batch,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _leaves(params: Any):
    return jax.tree_util.tree_flatten_with_path(params)[0]


def _cpu_flags() -> str:
    """What a processor can do decides the curve, and jax calls all of them ``cpu``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def rising(milliseconds: Mapping[int, float]) -> dict[int, float]:
    """``T(n) / T(1)``, made to rise with ``n``: a pass over more tokens is never cheaper, a measurement may say so."""
    cost, costs = 1.0, {}
    for n, time_of_pass in sorted(milliseconds.items()):
        cost = costs[n] = max(cost, time_of_pass / milliseconds[1])
    return costs


def step_milliseconds(
    model: LanguageModel, count: int, batch: int = 1, context: int = CONTEXT, seconds: float = SECONDS, repeats: int = 5
) -> float:
    """:func:`step_times` for one number of new tokens."""
    return step_times(model, [count], batch, context, seconds, repeats)[count]


def step_times(
    model: LanguageModel,
    counts: Sequence[int],
    batch: int = 1,
    context: int = CONTEXT,
    seconds: float = SECONDS,
    repeats: int = 5,
) -> dict[int, float]:
    """Milliseconds of one pass over each of several numbers of new tokens per row, behind ``context`` committed ones.

    The sizes take turns, and the shortest of ``repeats`` times counts: other work only ever adds. ``m + 1`` passes less one
    pass are timed: what the program does once and for all drops out.
    """
    plans = {}
    for count in counts:
        once = run_passes(model, count, batch, context, 1)
        once()
        rough = min(once() for _ in range(2))
        passes = max(2, min(200, round(seconds * 1e3 / repeats / max(rough, 1e-3))))
        many = run_passes(model, count, batch, context, passes + 1)
        many()
        plans[count] = once, many, passes
    alone, together = ({count: float("inf") for count in counts} for _ in range(2))
    for _ in range(repeats):
        for count, (once, many, _) in plans.items():
            alone[count] = min(alone[count], once())
            together[count] = min(together[count], many())
    return {count: max(together[count] - alone[count], 1e-6) / plans[count][2] for count in counts}


def run_passes(model: LanguageModel, count: int, batch: int, context: int, passes: int):
    """Return a call that runs ``passes`` passes and returns the milliseconds they took."""

    def call() -> float:
        cache = model.init_cache(batch, bucket(context + count)).commit(None, jnp.full(batch, context, jnp.int32))
        tokens = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32) % model.vocab_size, (batch, count))
        jax.block_until_ready((cache, tokens))
        begin = time.perf_counter()
        jax.block_until_ready(_run(model, tokens, cache, passes))
        return (time.perf_counter() - begin) * 1e3

    return call


@functools.partial(jax.jit, donate_argnums=2)
def _run(model: LanguageModel, tokens: Int[Array, "B T"], cache: Cache, passes: Int[Array, ""] | int):
    """Append ``tokens`` again and again behind the same committed entries, feeding each argmax back."""
    positions = cache.length[:, None] + jnp.arange(tokens.shape[1])

    def step(_, carry):
        tokens, cache = carry
        output = model(tokens, positions, cache)
        return jnp.argmax(output.logits, axis=-1).astype(jnp.int32), output.cache

    return jax.lax.fori_loop(0, passes, step, (tokens, cache))
