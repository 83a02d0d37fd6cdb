"""Feed the prompts: chunks of bounded size, so that attention scores never grow with the square of a long prompt."""

import jax
import jax.numpy as jnp

from jaxdec.cache import Cache
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

LARGEST_CHUNK = 512


def prefill(
    model: LanguageModel, tokens: Int[Array, "B P"], length: Int[Array, "B"], capacity: int
) -> tuple[Float[Array, "B V"], Cache]:
    """Feed right-padded prompts into an empty cache.

    Args:
      model: the language model.
      tokens: prompts; what lies behind ``length`` is fed too, and never committed.
      length: tokens of each prompt, at least 1.
      capacity: slots of the cache, at least ``P``.

    Returns:
      The logits behind each prompt's last token, and the cache with ``length`` entries committed.
    """
    batch, padded = tokens.shape
    num_chunks = -(-padded // LARGEST_CHUNK)
    chunk = -(-padded // num_chunks)
    tokens = jnp.pad(tokens, ((0, 0), (0, num_chunks * chunk - padded)))
    cache = model.init_cache(batch, max(capacity, num_chunks * chunk))

    def feed(index, carry):
        last_logits, cache = carry
        start = index * chunk
        new = jax.lax.dynamic_slice_in_dim(tokens, start, chunk, axis=1)
        last = length - 1 - start  # index of the prompt's last token in this chunk
        positions = jnp.broadcast_to(start + jnp.arange(chunk), (batch, chunk))
        logits, _, cache = model(new, positions, cache, logits_at=jnp.clip(last, 0, chunk - 1)[:, None])
        here = (last >= 0) & (last < chunk)
        last_logits = jnp.where(here[:, None], logits[:, 0], last_logits)
        return last_logits, cache.commit(None, jnp.clip(length - start, 0, chunk))

    if num_chunks == 1:
        positions = jnp.broadcast_to(jnp.arange(chunk), (batch, chunk))
        logits, _, cache = model(tokens, positions, cache, logits_at=(length - 1)[:, None])
        return logits[:, 0], cache.commit(None, length)
    logits_type = jax.eval_shape(lambda: model(tokens[:, :1], tokens[:, :1], cache).logits).dtype
    return jax.lax.fori_loop(0, num_chunks, feed, (jnp.zeros((batch, model.vocab_size), logits_type), cache))
