"""What a model says of given continuations, one token after the other, as decoding feeds them.

A rule that reads or keeps less of the context changes the law of every token that follows. Scoring a known continuation through
the very cache that decoding would use (``prompt.rules``, see :mod:`jaxdec.context_rules`) shows by how much, token by token,
where a generated text shows one path only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdec.decoding.prefill import feed_prompt
from jaxdec.decoding.state import Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int


class ContinuationScores(NamedTuple):
    """Scores of given continuations.

    Attributes:
      log_prob: of each token, given the prompt and the tokens before it, in nats.
      is_best: whether it is the token that greedy decoding would choose.
    """

    log_prob: Float[Array, "B N"]
    is_best: Bool[Array, "B N"]


@jax.jit
def score_continuations(model: LanguageModel, prompt: Prompt, tokens: Int[Array, "B N"]) -> ContinuationScores:
    """Score continuations of prompts. The prompts are fed as decoding feeds them, then one token at a time.

    Args:
      model: the language model.
      prompt: the batch; its budgets must be at least ``N`` in every row, its ``rules`` are followed.
      tokens: what follows each prompt.
    """
    logits, cache = feed_prompt(model, prompt)

    def score(logits: Array, token: Array) -> tuple[Array, Array]:
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        return jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0], logits.argmax(axis=-1) == token

    def step(carry, token):
        logits, cache, position = carry
        scores = score(logits, token)
        output = model(token[:, None], position[:, None], cache)
        cache = output.cache.commit(None, jnp.ones_like(position))
        return (output.logits[:, 0], cache, position + 1), scores

    _, scores = jax.lax.scan(step, (logits, cache, prompt.length), tokens.T)
    return ContinuationScores(*(side.T for side in scores))
