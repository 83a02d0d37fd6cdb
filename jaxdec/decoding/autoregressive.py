"""Plain decoding: one token per forward pass. Every other method is measured, and checked, against it.

x_{t+1} ~ p(. | x_1 .. x_t),   p = softmax(logits) after temperature, top-k, top-p, min-p
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.decoding.prefill import feed_prompt
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.state import Decoded, DecodeState, Guarantee, Prompt, Stats
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """Greedy decoding or sampling.

    Attributes:
      sampling: how each token is chosen; greedy by default.
      num_samples: texts per prompt; the prompt is fed once.
    """

    sampling: Sampling = GREEDY
    num_samples: int = 1

    def __post_init__(self):
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {self.num_samples}")
        if self.num_samples > 1 and self.sampling.greedy:
            raise ValueError(f"num_samples is {self.num_samples} with greedy decoding: all texts would be equal")

    @property
    def guarantee(self) -> Guarantee:
        """Greedy text does not depend on the batch around it, near-ties excepted; sampled text follows the model's law."""
        return Guarantee.TOKEN_IDENTICAL if self.sampling.greedy else Guarantee.DISTRIBUTION

    @property
    def reference(self) -> str:
        """This is what the other methods are held against."""
        return "greedy decoding" if self.sampling.greedy else "sampling"

    @property
    def incremental(self) -> bool:
        """Each row is one text that only grows."""
        return True

    def init(self, model: LanguageModel, prompt: Prompt) -> DecodeState:
        """Feed the prompts and choose the first token of every row."""
        logits, cache = feed_prompt(model, prompt, self.num_samples)
        rows = jnp.repeat(jnp.arange(prompt.tokens.shape[0]), self.num_samples)
        if self.num_samples > 1:
            logits = logits[rows]
        prompt = prompt.repeat(self.num_samples)
        spare = prompt.capacity - prompt.tokens.shape[1]
        state = DecodeState(
            tokens=jnp.pad(prompt.tokens, ((0, 0), (0, spare))),
            length=prompt.length,
            prompt_length=prompt.length,
            limit=prompt.length + prompt.max_new_tokens,
            done=jnp.zeros(len(rows), bool),
            log_prob=jnp.zeros(len(rows), logits.dtype),
            eos_tokens=prompt.eos_tokens,
            rng=prompt.keys,
            cache=cache,
            stats=Stats(target_calls=jnp.zeros(len(rows), jnp.int32)),
        )
        return self.extend(state, logits)

    def step(self, model: LanguageModel, state: DecodeState) -> DecodeState:
        """Feed each row's last token and choose the next."""
        last = (state.length - 1)[:, None]
        logits, _, cache = model(jnp.take_along_axis(state.tokens, last, axis=1), last, state.cache)
        cache = cache.commit(None, (~state.done).astype(jnp.int32))
        return self.extend(state.replace(cache=cache), logits[:, 0])

    def extend(self, state: DecodeState, logits: Float[Array, "B V"]) -> DecodeState:
        """Choose one token per row from ``logits`` and append it to the rows that are not done."""
        keys = jax.vmap(jax.random.fold_in)(state.rng, state.length)
        token = self.sampling.draw(keys, logits)
        log_prob = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        active = ~state.done
        here = (jnp.arange(state.tokens.shape[1]) == state.length[:, None]) & active[:, None]
        length = state.length + active
        return state.replace(
            tokens=jnp.where(here, token[:, None], state.tokens),
            length=length,
            done=state.done | (token[:, None] == state.eos_tokens).any(-1) | (length >= state.limit),
            log_prob=state.log_prob + jnp.where(active, log_prob, 0),
            stats=Stats(target_calls=state.stats.target_calls + active),
        )

    def done(self, state: DecodeState) -> Bool[Array, "B"]:
        """Rows that ended."""
        return state.done

    def result(self, state: DecodeState) -> Decoded:
        """Cut the generated tokens out of the texts."""

        def per_prompt(x):
            return x.reshape(-1, self.num_samples, *x.shape[1:])

        return Decoded(
            tokens=per_prompt(generated(state.tokens, state.prompt_length)),
            length=per_prompt(state.length - state.prompt_length),
            log_prob=per_prompt(state.log_prob),
            score=per_prompt(state.log_prob),
            target_calls=per_prompt(state.stats.target_calls),
        )


def generated(tokens: Int[Array, "B L"], prompt_length: Int[Array, "B"]) -> Int[Array, "B L"]:
    """Shift every row left by its prompt's length."""
    index = prompt_length[:, None] + jnp.arange(tokens.shape[1])
    return jnp.take_along_axis(tokens, jnp.minimum(index, tokens.shape[1] - 1), axis=1)
