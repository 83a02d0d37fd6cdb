"""A model that says what was recorded: behind position ``p`` its best token is the recorded one at ``p + 1``.

Greedy text is fixed, so that the number of calls that a drafter needs for it depends on the drafter and the text alone. With
this model in the target's place the real engine, verification and drafter decode the recorded text again, at a small part
of the cost. Off the recorded path its answers are not the target's; nothing behind a wrong guess is ever accepted, so that they
do not count. A drafter that learns from rejected branches (lookahead) cannot be replayed like this; ADED's learn from the text.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.cache import ContiguousCache
from jaxdec.language_model import LanguageModel

CONFIDENCE = 10.0


@dataclasses.dataclass(frozen=True)
class RecordedModule:
    """The language-model contract over ``params["texts"]`` (``[B, L]``, prompt and text, one row each)."""

    vocab_size: int
    max_positions: int = 1 << 20

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """A cache of one number per token, since the contract wants one."""
        return ContiguousCache.create(
            num_layers=1, batch_size=batch_size, capacity=capacity, num_kv_heads=1, head_dim=1, dtype=jnp.float32
        )

    def apply(self, variables, tokens, positions, cache, visible=None, logits_at=None):
        """Look the next tokens up."""
        texts = variables["params"]["texts"]
        entry = tokens[:, :, None, None].astype(jnp.float32)
        wanted = positions if logits_at is None else jnp.take_along_axis(positions, logits_at, axis=1)
        following = jnp.take_along_axis(texts, jnp.clip(wanted + 1, 0, texts.shape[1] - 1), axis=1)
        logits = CONFIDENCE * jax.nn.one_hot(following, self.vocab_size, dtype=jnp.float32)
        return logits, entry[..., 0], cache.append(0, entry, entry)


def recorded_model(texts: Sequence[Sequence[int]], vocab_size: int, length: int) -> LanguageModel:
    """A model that says these texts (prompts included), one per row, padded to ``length`` tokens."""
    padded = np.zeros((len(texts), length), np.int32)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return LanguageModel(RecordedModule(vocab_size), {"texts": jnp.asarray(padded)})
