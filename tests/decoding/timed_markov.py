"""A language model whose next token depends on the last one and on the position: every law known, and hardly ever a tie."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdec.cache import ContiguousCache
from jaxdec.language_model import LanguageModel

PERIOD = 16


class TimedMarkov(nn.Module):
    """``logits = table[position % 16, token]``."""

    num_states: int

    @property
    def vocab_size(self) -> int:
        return self.num_states

    @property
    def max_positions(self) -> int:
        return 1 << 20

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        return ContiguousCache.create(
            num_layers=1, batch_size=batch_size, capacity=capacity, num_kv_heads=1, head_dim=2, dtype=jnp.float32
        )

    def token_embeddings(self, params):
        return params["embeddings"]

    @nn.compact
    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        table = self.param("table", nn.initializers.zeros, (PERIOD, self.num_states, self.num_states))
        self.param("embeddings", nn.initializers.zeros, (self.num_states, 4))
        entry = jnp.stack([tokens, positions], axis=-1)[:, :, None].astype(jnp.float32)
        cache = cache.append(0, entry, entry)
        if logits_at is not None:
            tokens, positions = (jnp.take_along_axis(x, logits_at, axis=1) for x in (tokens, positions))
        return table[positions % PERIOD, tokens], jnp.zeros((*tokens.shape, 1)), cache


def timed_markov(num_states: int, seed: int, sharpness: float = 1.5, forbidden: float = 0.0, dtype=jnp.float32):
    """Return a model, and its ``(log-probabilities [16, V, V], embeddings [V, 4])`` in float64.

    ``forbidden`` is the share of transitions with probability zero.
    """
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(PERIOD, num_states, num_states))
    logits[rng.random(logits.shape) < forbidden] = -np.inf
    logits[..., 0] = np.where(np.isneginf(logits).all(-1), 0.0, logits[..., 0])
    embeddings = rng.normal(size=(num_states, 4))
    params = {"table": jnp.asarray(logits, dtype), "embeddings": jnp.asarray(embeddings, dtype)}
    logits = np.asarray(params["table"], np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    model = LanguageModel(TimedMarkov(num_states), params)
    return model, log_probs, np.asarray(params["embeddings"], np.float64)


def law_of(log_probs: np.ndarray):
    """The model's law, as the plain references take it."""
    rows = log_probs.tolist()
    return lambda text: rows[(len(text) - 1) % PERIOD][text[-1]]
