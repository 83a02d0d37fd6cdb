"""Greedy texts decoded again by a drafter, with the recording in the target's place, and what was counted on the way.

One prompt at a time, all padded to one shape, so that a method is compiled once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.papers.adaptive_drafting.greedy_texts import Item
from experiments.papers.adaptive_drafting.recorded_model import recorded_model
from jaxdec.decoding import Prompt
from jaxdec.decoding.loop import UNLIMITED, Method, advance, start
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.speculative.engine import SpeculativeState
from jaxdec.decoding.state import bucket
from jaxdec.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Room:
    """One shape for all prompts.

    Attributes:
      prompt: positions for the longest prompt.
      total: positions for the longest prompt with its text.
      recorded: positions for what is recorded: texts go on behind the end that arms decode to, and guesses there are right or
        wrong as the target would have them.
    """

    prompt: int
    total: int
    recorded: int

    @classmethod
    def of(cls, items: Sequence[Item]) -> "Room":
        """For these."""
        longest = bucket(max(len(item.prompt) for item in items))
        total = bucket(longest + max(len(item.text) for item in items), smallest=64)
        return cls(longest, total, max(total, longest + max(len(item.long_text) for item in items)))


def padded_prompt(item: Item, room: Room, eos_tokens: Sequence[int] = ()) -> Prompt:
    """The prompt of an item, with the budget of its text."""
    prompt = Prompt.create([item.prompt], len(item.text), eos_tokens=eos_tokens)
    spare = room.prompt - prompt.tokens.shape[1]
    return prompt.replace(tokens=jnp.pad(prompt.tokens, ((0, 0), (0, spare))), capacity=room.total)


def replay(
    method: Speculative, item: Item, room: Room, vocab_size: int, companions: Mapping[str, PyTree]
) -> SpeculativeState:
    """Decode the recorded text of one item.

    Raises:
      RuntimeError: another text came out: the engine or the drafter is wrong.
    """
    # An append behind the last root reads up to num_nodes positions further.
    length = room.recorded + method.drafter.num_nodes + 1
    model = recorded_model([item.prompt + item.long_text], vocab_size, length).accompanied(**companions)
    state = advance(method, model, start(method, model, padded_prompt(item, room)), UNLIMITED)
    if tokens_of(method, state) != list(item.text):
        raise RuntimeError(f"{item.set}, {item.id}: replay by {method.drafter} did not give the recorded text")
    return state


def tokens_of(method: Method, state: Any) -> list[int]:
    """New tokens of the only row."""
    decoded = method.result(state)
    return np.asarray(decoded.tokens)[0, 0, : int(decoded.length[0, 0])].tolist()


def counts_of(item: Item, state: SpeculativeState) -> dict[str, Any]:
    """What one replay or decode counted, ready for JSON."""
    stats = state.stats
    return {
        "set": item.set,
        "id": item.id,
        "group": item.group,
        "new_tokens": int(state.length[0] - state.prompt_length[0]),
        "target_calls": int(stats.target_calls[0]),
        "drafted": np.asarray(stats.drafted)[0].tolist(),
        "accepted": np.asarray(stats.accepted)[0].tolist(),
        "fed": int(stats.fed[0]),
    }
