"""How one token is chosen from logits: greedy, temperature, top-k, top-p and min-p.

A processed distribution is built in this order: divide by the temperature; keep the ``top_k`` largest (Fan et al. 2018,
arXiv 1805.04833); keep the smallest set of most probable tokens whose mass reaches ``top_p`` (Holtzman et al. 2020,
arXiv 1904.09751); keep tokens at least ``min_p`` times as probable as the best one (Nguyen et al. 2024, arXiv 2407.01082);
renormalise. Tokens tied at a threshold are all kept. Speculative methods process draft and target alike.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A rule for choosing tokens. ``Sampling(temperature=0)`` is greedy decoding.

    Attributes:
      temperature: divides the logits; 0 takes the most probable token.
      top_k: number of most probable tokens kept; None keeps all.
      top_p: probability mass kept, in (0, 1]; None keeps all.
      min_p: smallest probability kept, relative to the largest, in [0, 1); None keeps all.
    """

    temperature: float | int = 1.0
    top_k: int | None = None
    top_p: float | int | None = None
    min_p: float | int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be a finite number >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 (or None to keep all tokens), got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1] (or None to keep all tokens), got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must be in [0, 1) (or None to keep all tokens), got {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether the choice is deterministic."""
        return self.temperature == 0

    def log_probs(self, logits: Float[Array, "*rows V"]) -> Float[Array, "*rows V"]:
        """Normalised log-probabilities of the processed distribution; ``-inf`` where a token is excluded."""
        if self.greedy:
            best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
            return jnp.log(best)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest_kept = jax.lax.top_k(logits, self.top_k)[0][..., -1:]
            logits = jnp.where(logits >= smallest_kept, logits, -jnp.inf)
        if self.top_p is not None and self.top_p < 1:
            logits = jnp.where(nucleus(jax.nn.softmax(logits, axis=-1), self.top_p), logits, -jnp.inf)
        if self.min_p is not None:
            smallest_kept = logits.max(-1, keepdims=True) + jnp.log(jnp.asarray(self.min_p, logits.dtype))
            logits = jnp.where(logits >= smallest_kept, logits, -jnp.inf)
        return jax.nn.log_softmax(logits, axis=-1)

    def draw(self, keys: Key[Array, "*rows"], logits: Float[Array, "*rows V"]) -> Int[Array, "*rows"]:
        """Choose one token per row, each row with its own key, so that a row's draw does not depend on its batch."""
        if self.greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        log_probs = self.log_probs(logits)
        draw = jax.random.categorical
        for _ in range(keys.ndim):
            draw = jax.vmap(draw)
        return draw(keys, log_probs).astype(jnp.int32)


GREEDY = Sampling(temperature=0.0)


def nucleus(probs: Float[Array, "*rows V"], mass: float) -> Bool[Array, "*rows V"]:
    """Mark the smallest set of most probable tokens whose total reaches ``mass``; all tokens tied at its edge are in it.

    The edge is the largest probability ``t`` with ``sum(p[p >= t]) >= mass``. It is found by bisection over the bit patterns
    of non-negative floats, whose integer order is their numeric order: 31 passes instead of a sort of the vocabulary.
    """
    probs = probs.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(probs, jnp.int32)
    # Rounding may leave the total a little below 1: a mass above the total would never be reached, so cap it there.
    goal = jnp.minimum(mass, probs.sum(-1))

    def halve(_, bounds):
        reached, missed = bounds
        middle = reached + (missed - reached) // 2
        enough = jnp.where(bits >= middle[..., None], probs, 0).sum(-1) >= goal
        return jnp.where(enough, middle, reached), jnp.where(enough, missed, middle)

    start = jnp.zeros(probs.shape[:-1], jnp.int32)
    edge, _ = jax.lax.fori_loop(0, 31, halve, (start, jnp.full_like(start, 0x3F800001)))  # 0x3F800000 is 1.0
    return (bits >= edge[..., None]) & (probs > 0)
