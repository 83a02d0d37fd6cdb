"""Whole texts: every row prefilled by itself, prefilled once and copied, or shared; and trees of one and two levels.

The prefill is timed apart from the steps, so that speeds can be told with it and without it.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.harness import turns
from experiments.benchmarks.machine import LoadMeter
from experiments.evaluation.equality import TIE, difference
from experiments.papers.progress import Progress
from jaxdec.cache import SharedPrefixCache
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.language_model import LanguageModel
from jaxdec.shared_prompts import share

ARMS = ("alone", "copied", "shared")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to decode a batch.

    Attributes:
      prompt: the batch, with what is shared.
      row_of: for each prompt its row there.
      copy: whether what was fed once is then copied to every row.
    """

    prompt: Prompt
    row_of: np.ndarray
    copy: bool = False


_unshare = jax.jit(lambda cache: cache.unshared())


def run_arm(arm: Arm, method: Autoregressive, model: LanguageModel, clock: Callable[[], float]) -> dict[str, Any]:
    """Decode once: ``prefill`` and ``decode`` seconds, ``bytes`` of the cache, ``texts`` in the order of the prompts."""
    begin = clock()
    state = start(method, model, arm.prompt)
    if arm.copy:
        assert isinstance(state.cache, SharedPrefixCache)
        state = state.replace(cache=_unshare(state.cache))
    state = jax.block_until_ready(state)
    middle, held = clock(), state.cache.nbytes
    state = jax.block_until_ready(advance(method, model, state, UNLIMITED))
    end = clock()
    lengths, first, tokens = (np.asarray(array) for array in (state.length, state.prompt_length, state.tokens))
    texts = [tokens[row, first[row] : lengths[row]].tolist() for row in arm.row_of]
    return {"prefill": middle - begin, "decode": end - middle, "bytes": held, "texts": texts}


def time_arms(
    arms: Mapping[str, Arm],
    method: Autoregressive,
    model: LanguageModel,
    rounds: int,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Decode with every arm, in turns; once before that, which compiles.

    Returns:
      By arm ``prefill`` and ``decode`` (seconds, round by round), ``bytes``, ``texts``; and ``foreign_load``.
    """
    found: dict[str, dict[str, Any]] = {}
    with progress.task("decoding", len(arms) * (rounds + 1)) as note:
        for name, arm in arms.items():
            once = run_arm(arm, method, model, clock)
            found[name] = {"prefill": [], "decode": [], "bytes": once["bytes"], "texts": once["texts"]}
            note(f"{name}, compiling")
        meter = LoadMeter(time.process_time)
        meter.start()
        for round_ in range(rounds):
            for name in turns(list(arms), round_):
                once = run_arm(arms[name], method, model, clock)
                for part in ("prefill", "decode"):
                    found[name][part].append(once[part])
                note(name)
    return {"arms": found, "foreign_load": meter.stop()["foreign_load"]}


def rate_arms(prompts: Sequence[Sequence[int]], new_tokens: int, prefix: int) -> dict[str, Arm]:
    """The three arms of a batch that shares a prefix. Texts have the whole budget: nothing ends them."""
    plain = Prompt.create(prompts, new_tokens)
    shared, row_of = share(plain, prompts, [[(len(prompts), prefix)]])
    return {
        "alone": Arm(plain, np.arange(len(prompts))),
        "copied": Arm(shared, row_of, copy=True),
        "shared": Arm(shared, row_of),
    }


def tree_arms(prompts: Sequence[Sequence[int]], trees: Mapping[str, Any], new_tokens: int, seed: int) -> dict[str, Arm]:
    """An arm for each tree."""
    plain = Prompt.create(prompts, new_tokens, seed=seed)
    return {name: Arm(*share(plain, prompts, tree)) for name, tree in trees.items()}


def same_texts(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    plain: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """Whether greedy texts are those without sharing.

    Returns:
      ``texts``: how many; ``equal``; ``ties``: parted where the two best logits are within rounding; ``gaps`` of all that
      part.
    """
    differences = [
        difference(model, prompt, one, other, TIE["float32"])
        for prompt, one, other in zip(prompts, plain, texts, strict=True)
    ]
    parted = [found for found in differences if found is not None]
    return {
        "texts": len(differences),
        "equal": len(differences) - len(parted),
        "ties": sum(found["tie"] for found in parted),
        "gaps": [found["gap"] for found in parted],
    }


def rates(times: Mapping[str, Any], arm: str, *, prefill: bool) -> list[float]:
    """Tokens per second of all rows, round by round; without the prefill also without its token."""
    own = times["arms"][arm]
    rows, new = len(own["texts"]), len(own["texts"][0])
    if prefill:
        return [rows * new / (first + rest) for first, rest in zip(own["prefill"], own["decode"], strict=True)]
    return [rows * (new - 1) / rest for rest in own["decode"]]
