"""How long diverse beam search takes, beside beam search of the same width: in turns, as ratios inside a round."""

import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments.benchmarks.harness import summary, turns
from experiments.benchmarks.machine import LoadMeter
from experiments.papers.diverse_beam.arms import Arm
from experiments.papers.progress import Progress
from jaxdec.decoding import Prompt, decode
from jaxdec.language_model import LanguageModel


def time_arms(
    arms: Sequence[Arm], model: LanguageModel, prompt: Prompt, rounds: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Time to decode one batch, and its ratio to that of the first arm.

    Returns:
      By name of the arm: summaries (median, min, max, samples) of ``seconds`` on the clock, ``cpu_seconds`` of this process
      on all cores, their ratios ``ratio`` and ``cpu_ratio`` to those of the first arm in the same round, and ``foreign_load``
      (processor seconds per second that went to others; null where unknown).
    """
    samples: dict[str, dict[str, list[float]]] = {arm.name: {"seconds": [], "cpu_seconds": []} for arm in arms}
    loads: dict[str, list[float]] = {arm.name: [] for arm in arms}
    methods = {arm.name: arm.method() for arm in arms}
    with progress.task(f"timing, B={arms[0].num_beams}", len(arms) * (rounds + 1)) as advance:
        for name, method in methods.items():  # compile
            jax.block_until_ready(decode(method, model, prompt).score)
            advance(name)
        for round_ in range(rounds):
            for name in turns(list(methods), round_):
                meter, cpu = LoadMeter(time.process_time), time.process_time()
                meter.start()
                jax.block_until_ready(decode(methods[name], model, prompt).score)
                load = meter.stop()
                samples[name]["seconds"].append(load["wall_seconds"] or 0.0)
                samples[name]["cpu_seconds"].append(time.process_time() - cpu)
                if load["foreign_load"] is not None:
                    loads[name].append(load["foreign_load"])
                advance(name)
    first = samples[arms[0].name]
    ratios = {"ratio": "seconds", "cpu_ratio": "cpu_seconds"}
    return {
        name: {
            **{quantity: summary(values) for quantity, values in own.items()},
            **{
                ratio: summary(value / base for value, base in zip(own[quantity], first[quantity], strict=True))
                for ratio, quantity in ratios.items()
            },
            "foreign_load": summary(loads[name]) if loads[name] else None,
        }
        for name, own in samples.items()
    }
