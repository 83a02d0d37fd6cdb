"""The target itself, where the recording cannot stand in: equality with greedy decoding, time on the clock, costs of a step."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.harness import turns
from experiments.benchmarks.machine import LoadMeter
from experiments.papers.adaptive_drafting.greedy_texts import Item
from experiments.papers.adaptive_drafting.replay import Room, counts_of, padded_prompt, tokens_of
from experiments.papers.progress import Progress
from jaxdec.decoding import Autoregressive, Prompt
from jaxdec.decoding.loop import UNLIMITED, Method, advance, start
from jaxdec.decoding.prefill import prefill
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.speculative.engine import Drafter, SpeculativeState
from jaxdec.decoding.speculative.step_cost import step_milliseconds
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel
from jaxdec.typing import PyTree

Companions = Callable[[Item], Mapping[str, PyTree]]


def decode_all(
    method: Speculative, companions: Companions, lm: LoadedModel, items: Sequence[Item], room: Room, progress: Progress
) -> list[dict[str, Any]]:
    """Decode every item with the target.

    Returns:
      Per item what was counted, and ``difference``: null if the text is the greedy text, else see :func:`difference`.
    """
    found = []
    with progress.task("decoding with the target", len(items)) as shown:
        for item in items:
            model = lm.model.accompanied(**companions(item))
            state = _decode(method, model, padded_prompt(item, room, lm.tokenizer.eos_token_ids))
            entry = difference(lm.model, item, tokens_of(method, state))
            found.append({**counts_of(item, state), "difference": entry})
            shown("")
    return found


def difference(model: LanguageModel, item: Item, tokens: Sequence[int]) -> dict[str, Any] | None:
    """Where another text first leaves the greedy text: ``{"position", "gap"}``; None if it does not.

    ``gap`` is how far apart the target's logits of the two tokens are: the greedy text's less the other's. A tie, up to
    rounding, is no error.
    """
    at = next((i for i, pair in enumerate(zip(item.text, tokens)) if pair[0] != pair[1]), None)
    if at is None:
        short = min(len(item.text), len(tokens))
        return None if len(item.text) == len(tokens) else {"position": short, "gap": None}
    prompt = Prompt.create([[*item.prompt, *item.text[:at]]], 1)
    logits, _ = _prefill(model, prompt.tokens, prompt.length, prompt.capacity)
    return {"position": at, "gap": float(logits[0, item.text[at]] - logits[0, tokens[at]])}


_prefill = jax.jit(prefill, static_argnums=3)


def _decode(method: Method, model: LanguageModel, prompt: Prompt) -> Any:
    return advance(method, model, start(method, model, prompt), UNLIMITED)


def time_arms(
    arms: Mapping[str, tuple[Method, Companions]],
    lm: LoadedModel,
    items: Sequence[Item],
    room: Room,
    rounds: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Decode items at batch 1, the arms in turn.

    Returns:
      Per item, round and arm ``{"arm", "set", "id", "group", "round", "seconds", "foreign_load", "difference"}``: seconds
      behind the prefill, processor seconds per second that went to others (null where unknown).
    """
    found = []
    with progress.task("time on the clock", len(items) * rounds) as shown:
        for item in items:
            prompt = padded_prompt(item, room, lm.tokenizer.eos_token_ids)
            models = {name: lm.model.accompanied(**companions(item)) for name, (_, companions) in arms.items()}
            if item is items[0]:
                for name, (method, _) in arms.items():  # compile
                    jax.block_until_ready(_decode(method, models[name], prompt).length)
            for round_ in range(rounds):
                for name in turns(list(arms), round_):
                    method = arms[name][0]
                    state = jax.block_until_ready(start(method, models[name], prompt))
                    meter = LoadMeter(time.process_time)
                    meter.start()
                    state = jax.block_until_ready(advance(method, models[name], state, UNLIMITED))
                    load = meter.stop()
                    found.append(
                        {
                            "arm": name,
                            "set": item.set,
                            "id": item.id,
                            "group": item.group,
                            "round": round_,
                            "seconds": load["wall_seconds"],
                            "foreign_load": load["foreign_load"],
                            "difference": difference(lm.model, item, tokens_of(method, state)),
                        }
                    )
                shown("")
    return found


GREEDY = Autoregressive()


def step_costs(model: LanguageModel, counts: Sequence[int]) -> dict[str, float]:
    """Milliseconds of a pass over ``n`` new tokens at batch 1, by ``n``."""
    return {str(count): step_milliseconds(model, count) for count in sorted({1, *counts})}


def drafting_milliseconds(drafter: Drafter, model: LanguageModel, state: SpeculativeState, seconds: float) -> float:
    """Milliseconds of one ``propose`` behind the text of a finished state; ``m + 1`` proposals less one are timed."""

    def timed(times: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready(_propose(drafter, model, state, times))
        return (time.perf_counter() - begin) * 1e3

    timed(1)
    rough = max(1e-3, (timed(11) - timed(1)) / 10)
    times = max(5, min(2000, round(seconds * 1e3 / 3 / rough)))
    return sorted(max(0.0, timed(times + 1) - timed(1)) / times for _ in range(3))[1]


@functools.partial(jax.jit, static_argnums=0)
def _propose(drafter: Drafter, model: LanguageModel, state: SpeculativeState, times: int) -> Any:
    """Propose behind one prefix of the text after the other."""
    text = state.replace(done=jnp.zeros_like(state.done))
    span = jnp.maximum(state.length - state.prompt_length, 1)

    def propose(index, carry):
        drafter_state, seen = carry
        here = text.replace(length=state.prompt_length + 1 + index % span)
        tree, drafter_state = drafter.propose(model, drafter_state, here)
        return drafter_state, seen + jnp.where(tree.valid, tree.tokens + tree.parents, 0).sum()

    return jax.lax.fori_loop(0, times, propose, (state.drafter, jnp.int32(0)))
