"""Feed the prompts: chunks of bounded size, so that attention scores never grow with the square of a long prompt."""

from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.cache import Cache, ContiguousCache, PrefixLevel, SharedPrefixCache
from jaxdec.decoding.prefix_sharing import PrefixSharing
from jaxdec.decoding.state import Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

LARGEST_CHUNK = 512
AnyCache = TypeVar("AnyCache", bound=Cache)  # a layout stays what it is


def feed_prompt(model: LanguageModel, prompt: Prompt, times: int = 1) -> tuple[Float[Array, "B V"], Cache]:
    """Feed a batch of prompts, what they share (``prompt.sharing``) once.

    Args:
      model: the language model.
      prompt: the batch; its capacity is room for the longest text.
      times: texts that go on from each prompt.

    Returns:
      The logits behind each prompt's last token, and a cache with ``times`` rows per prompt, side by side.

    Raises:
      ValueError: a cache layout that does not share prefixes.
    """
    batch = prompt.tokens.shape[0]
    if prompt.sharing is None:
        logits, cache = prefill(model, prompt.tokens, prompt.length, prompt.capacity)
        return logits, cache if times == 1 else cache.fork(jnp.repeat(jnp.arange(batch), times))
    sharing = prompt.sharing
    levels, start = _feed_levels(model, prompt, sharing)
    whole = times > 1  # then all texts of a prompt share it whole
    own_tokens = _cut(prompt.tokens, start, sharing.own_width)
    room = sharing.own_width if whole else prompt.capacity - sharing.spared
    cache = SharedPrefixCache(levels, _contiguous(model, batch, max(room, _padded(sharing.own_width))))
    logits, cache = append_tokens(model, cache, own_tokens, prompt.length - start)
    if not whole:
        return logits, cache
    own = PrefixLevel.of(cache.own, tuple((row, row + 1) for row in range(batch)), sharing.own_width)
    levels = tuple(level.repeated(times) for level in (*levels, own))
    empty = _contiguous(model, batch * times, prompt.capacity - sharing.spared_by_prompts)
    return logits, SharedPrefixCache(levels, empty)


def _feed_levels(
    model: LanguageModel, prompt: Prompt, sharing: PrefixSharing
) -> tuple[tuple[PrefixLevel, ...], Int[Array, "B"]]:
    """Feed the shared segments, each level reading those above; return them and how many tokens of each row they hold."""
    levels: tuple[PrefixLevel, ...] = ()
    start = jnp.zeros_like(prompt.length)
    for index, (spans, width, length) in enumerate(zip(sharing.spans, sharing.widths, sharing.length)):
        first = np.array([begin for begin, _ in spans])
        above = tuple(
            level.replace(spans=sharing.spans_among(number, spans)) for number, level in enumerate(levels[:index])
        )
        cache = SharedPrefixCache(above, _contiguous(model, len(spans), _padded(width)))
        _, cache = append_tokens(model, cache, _cut(prompt.tokens[first], start[first], width), length)
        levels = (*levels, PrefixLevel.of(cache.own, spans, width))
        start = start + levels[-1].row_length(prompt.tokens.shape[0]).astype(start.dtype)
    return levels, start


def _contiguous(model: LanguageModel, rows: int, capacity: int) -> ContiguousCache:
    cache = model.init_cache(rows, capacity)
    if not isinstance(cache, ContiguousCache):
        raise ValueError(f"share_prefixes needs a model with a contiguous cache, this one has a {type(cache).__name__}")
    return cache


def _cut(tokens: Int[Array, "B P"], start: Int[Array, "B"], width: int) -> Int[Array, "B N"]:
    """``width`` tokens of each row from ``start`` on; any token behind the end."""
    index = start[:, None] + jnp.arange(width)
    return jnp.take_along_axis(tokens, jnp.minimum(index, tokens.shape[1] - 1), axis=1)


def _padded(width: int) -> int:
    """Slots that chunks of one size take."""
    num_chunks = -(-width // LARGEST_CHUNK)
    return num_chunks * -(-width // num_chunks)


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
    return append_tokens(model, model.init_cache(batch, max(capacity, _padded(padded))), tokens, length)


def append_tokens(
    model: LanguageModel, cache: AnyCache, tokens: Int[Array, "B P"], length: Int[Array, "B"]
) -> tuple[Float[Array, "B V"], AnyCache]:
    """Feed right-padded tokens behind what a cache holds, and commit them.

    Args:
      model: the language model.
      cache: with room for ``P`` tokens more, rounded up to whole chunks.
      tokens: what to feed; what lies behind ``length`` is fed too, and never committed.
      length: tokens of each row; a row without any gets logits without meaning.

    Returns:
      The logits behind each row's last token, and the cache.
    """
    batch, padded = tokens.shape
    num_chunks = -(-padded // LARGEST_CHUNK)
    chunk = -(-padded // num_chunks)
    tokens = jnp.pad(tokens, ((0, 0), (0, num_chunks * chunk - padded)))
    base = cache.length[:, None]
    within = jnp.broadcast_to(jnp.arange(chunk), (batch, chunk))

    def feed(index, carry):
        last_logits, cache = carry
        start = index * chunk
        new = jax.lax.dynamic_slice_in_dim(tokens, start, chunk, axis=1)
        last = length - 1 - start  # index of the row's last token in this chunk
        logits, _, cache = model(new, base + start + within, cache, logits_at=jnp.clip(last, 0, chunk - 1)[:, None])
        here = (last >= 0) & (last < chunk)
        last_logits = jnp.where(here[:, None], logits[:, 0], last_logits)
        return last_logits, cache.commit(None, jnp.clip(length - start, 0, chunk))

    if num_chunks == 1:
        output = model(tokens, base + within, cache, logits_at=jnp.maximum(length - 1, 0)[:, None])
        return output.logits[:, 0], cast(AnyCache, output.cache.commit(None, length))
    logits_type = jax.eval_shape(lambda: model(tokens[:, :1], tokens[:, :1], cache).logits).dtype
    return jax.lax.fori_loop(0, num_chunks, feed, (jnp.zeros((batch, model.vocab_size), logits_type), cache))
