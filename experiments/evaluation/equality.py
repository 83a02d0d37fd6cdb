"""Is the text that of plain decoding, and if not, was it a tie?

Where two texts part, the target has scored two tokens nearly alike, or something is wrong. The gap between its two best logits
there tells which: passes over different numbers of tokens round differently, and a gap within that rounding is a tie.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.decoding import Prompt
from jaxdec.language_model import LanguageModel

TIE = {"float64": 0.0, "float32": 1e-4, "bfloat16": 0.25, "int8": 0.05}
"""Largest gap between the two best logits, by dtype of the model, that counts as a tie. bfloat16: two units in the last place
of a logit between 16 and 32."""


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token that differs; None if the texts are equal. A text that ends where the other goes on differs."""
    for index, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def difference(
    model: LanguageModel, prompt: Sequence[int], plain: Sequence[int], text: Sequence[int], tie: float
) -> dict[str, Any] | None:
    """Where a text leaves the plain one, and whether that was a tie; None if it does not.

    Args:
      model: the target.
      prompt: token ids.
      plain: what plain decoding makes of it.
      text: what another method makes of it.
      tie: largest gap that counts as one.

    Returns:
      ``position``; ``gap``, between the two best logits there; ``tie``, whether that gap is within ``tie`` and both tokens are
      among these two best.
    """
    position = first_difference(plain, text)
    if position is None:
        return None
    logits = next_logits(model, [*prompt, *plain[:position]])
    second, best = np.argsort(logits)[-2:]
    gap = float(logits[best] - logits[second])
    pair = {*plain[position : position + 1], *text[position : position + 1]}
    return {"position": position, "gap": gap, "tie": gap <= tie and pair == {int(best), int(second)}}


def next_logits(model: LanguageModel, context: Sequence[int]) -> np.ndarray:
    """Logits ``[V]`` behind a context, by one pass over all of it."""
    prompt = Prompt.create([list(context)], 1)
    return np.asarray(_logits(model, prompt))


@functools.partial(jax.jit)
def _logits(model: LanguageModel, prompt: Prompt) -> jax.Array:
    positions = jnp.arange(prompt.tokens.shape[1])[None]
    cache = model.init_cache(1, prompt.capacity)
    return model(prompt.tokens, positions, cache, None, prompt.length[:, None] - 1).logits[0, 0]
