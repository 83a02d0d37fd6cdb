"""Feed tokens behind what a cache holds: chunks of bounded size, so that scores never grow with a text's square."""

from typing import TypeVar, cast

import jax
import jax.numpy as jnp

from jaxdec.cache import Cache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

LARGEST_CHUNK = 512
AnyCache = TypeVar("AnyCache", bound=Cache)  # a layout stays what it is


def padded_width(width: int, largest_chunk: int | None = None) -> int:
    """Slots that chunks of one size take; see :func:`append_tokens`."""
    num_chunks = -(-width // (largest_chunk or LARGEST_CHUNK))
    return num_chunks * -(-width // num_chunks)


def append_tokens(
    model: LanguageModel,
    cache: AnyCache,
    tokens: Int[Array, "B P"],
    length: Int[Array, "B"],
    largest_chunk: int | None = None,
) -> tuple[Float[Array, "B V"], AnyCache]:
    """Feed right-padded tokens behind what a cache holds, and commit them.

    Args:
      model: the language model.
      cache: with room for ``P`` tokens more, rounded up to whole chunks.
      tokens: what to feed; what lies behind ``length`` is fed too, and never committed.
      length: tokens of each row; a row without any gets logits without meaning.
      largest_chunk: tokens fed at a time at most; ``LARGEST_CHUNK`` by default.

    Returns:
      The logits behind each row's last token, and the cache.
    """
    batch, padded = tokens.shape
    num_chunks = -(-padded // (largest_chunk or LARGEST_CHUNK))
    chunk = -(-padded // num_chunks)
    tokens = jnp.pad(tokens, ((0, 0), (0, num_chunks * chunk - padded)))
    base = cache.length[:, None]
    within = jnp.broadcast_to(jnp.arange(chunk), (batch, chunk))

    def feed(index, carry):
        last_logits, cache = carry
        start = index * chunk
        new = jax.lax.dynamic_slice_in_dim(tokens, start, chunk, axis=1)
        cache = _expecting(cache, jnp.clip(length - start, 0, chunk))
        last = length - 1 - start  # index of the row's last token in this chunk
        logits, _, cache = model(new, base + start + within, cache, logits_at=jnp.clip(last, 0, chunk - 1)[:, None])
        here = (last >= 0) & (last < chunk)
        last_logits = jnp.where(here[:, None], logits[:, 0], last_logits)
        return last_logits, cache.commit(None, jnp.clip(length - start, 0, chunk))

    if num_chunks == 1:
        output = model(tokens, base + within, _expecting(cache, length), logits_at=jnp.maximum(length - 1, 0)[:, None])
        return output.logits[:, 0], cast(AnyCache, output.cache.commit(None, length))
    logits_type = jax.eval_shape(lambda: model(tokens[:, :1], tokens[:, :1], cache).logits).dtype
    return jax.lax.fori_loop(0, num_chunks, feed, (jnp.zeros((batch, model.vocab_size), logits_type), cache))


def _expecting(cache: AnyCache, count: Int[Array, "B"]) -> AnyCache:
    """Tell a cache that asks with all new tokens together which of them are padding."""
    return cast(AnyCache, cache.expect(count)) if isinstance(cache, RetrievalCache) else cache
