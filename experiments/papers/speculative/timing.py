"""What a pass costs against its number of tokens, and how long decoding takes: prompt by prompt, methods in turns.

Speeds are tokens per second, so that a text that parts from plain decoding's at a near-tie is no advantage. A speed-up is the
ratio of a method's speed to plain decoding's for the same prompt in the same round.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.harness import turns
from experiments.benchmarks.machine import LoadMeter
from experiments.papers.progress import Progress
from experiments.papers.speculative.arms import PLAIN, Arm, finished
from jaxdec.decoding import Prompt
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative.step_cost import step_milliseconds
from jaxdec.language_model import LanguageModel

LEAST = 0.01
"""Smallest cost of a pass that is believed, in plain steps."""


def cost_curves(
    models: Mapping[str, LanguageModel],
    counts: Mapping[str, Sequence[int]],
    context: int,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """``T(n) / T(1)``, the target's single token being 1: the median over rounds of ratios inside a round.

    Args:
      models: by name; the target's is ``""``.
      counts: numbers of tokens at which each model is timed.
      context: committed tokens.
      rounds: repetitions of the whole.
      progress: shown meanwhile.

    Returns:
      ``costs``: by model ``{n: ratio}``; ``milliseconds``: of one token of the target; ``foreign_load``.
    """
    asked = [(name, n) for name in models for n in sorted(set(counts[name]))]
    asked = [pair for pair in asked if pair != ("", 1)]
    ratios: dict[str, dict[int, list[float]]] = {name: {} for name in models}
    ones, loads = [], []
    with progress.task("cost of a pass", rounds * (len(asked) + 1)) as advance:
        for _ in range(rounds):
            meter = LoadMeter(time.process_time)
            meter.start()
            ones.append(step_milliseconds(models[""], 1, 1, context))
            advance("")
            for name, n in asked:
                ratios[name].setdefault(n, []).append(step_milliseconds(models[name], n, 1, context) / ones[-1])
                advance("")
            loads.append(meter.stop()["foreign_load"])
    # A difference of two times: of a model so small that noise is larger, it may come out negative.
    costs = {
        name: {str(n): max(LEAST, float(np.median(values))) for n, values in rows.items()}
        for name, rows in ratios.items()
    }
    costs[""]["1"] = 1.0
    return {"costs": costs, "milliseconds": float(np.median(ones)), "foreign_load": mean_load(loads)}


def mean_load(loads: Sequence[float | None]) -> float | None:
    """Mean of those known; None if none is."""
    known = [load for load in loads if load is not None]
    return float(np.mean(known)) if known else None


def time_arms(
    arms: Sequence[Arm],
    models: Mapping[str, LanguageModel],
    prompts: Sequence[Prompt],
    rounds: int,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Decode every prompt with every arm, ``rounds`` times; each arm decodes one prompt before that, which compiles.

    The prefill and its token are left out: of 48 new tokens behind a long prompt they are a large part on a processor.

    Returns:
      ``speeds``: by arm, round and prompt, tokens per second; ``foreign_load``: mean, in cores (None if unknown).
    """
    speeds: dict[str, list[list[float]]] = {arm.name: [[] for _ in range(rounds)] for arm in arms}
    by_name = {arm.name: arm for arm in arms}
    methods = {arm.name: arm.method() for arm in arms}
    loads = []
    with progress.task("timing", len(arms) * (1 + rounds * len(prompts))) as note:
        for name, method in methods.items():
            jax.block_until_ready(finished(method, models[by_name[name].draft], prompts[0]))
            note(name)
        for round_ in range(rounds):
            for place, prompt in enumerate(prompts):
                for name in turns(list(methods), round_ + place):
                    method, model = methods[name], models[by_name[name].draft]
                    state = jax.block_until_ready(start(method, model, prompt))
                    meter, begin = LoadMeter(time.process_time), clock()
                    meter.start()
                    state = jax.block_until_ready(advance(method, model, state, UNLIMITED))
                    seconds = clock() - begin
                    loads.append(meter.stop()["foreign_load"])
                    speeds[name][round_].append(int(state.length[0] - state.prompt_length[0] - 1) / seconds)
                    note(name)
    return {"speeds": speeds, "foreign_load": mean_load(loads)}


def speed_ups(timing: Mapping[str, Any], arm: str, places: Sequence[int] | None = None) -> list[float]:
    """Per round the mean speed over some prompts (all by default), over plain decoding's: the ratio of Spec-Bench."""
    ours, plain = timing["speeds"][arm], timing["speeds"][PLAIN]
    chosen = range(len(plain[0])) if places is None else places
    return [
        float(np.mean([own[place] for place in chosen]) / np.mean([base[place] for place in chosen]))
        for own, base in zip(ours, plain, strict=True)
    ]
