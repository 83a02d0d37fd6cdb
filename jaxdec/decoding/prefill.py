"""Feed the prompts into the cache that decoding goes on with; what they share once."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdec.cache import Cache, ContiguousCache, PagedCache, PrefixLevel, SharedPrefixCache
from jaxdec.decoding.chunks import append_tokens, padded_width
from jaxdec.decoding.long_prompts import feed_by_rules
from jaxdec.decoding.prefix_sharing import PrefixSharing
from jaxdec.decoding.state import Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int


def feed_prompt(model: LanguageModel, prompt: Prompt, times: int = 1) -> tuple[Float[Array, "B V"], Cache]:
    """Feed a batch of prompts, what they share (``prompt.sharing``) once.

    Args:
      model: the language model.
      prompt: the batch; its capacity is room for the longest text.
      times: texts that go on from each prompt.

    Returns:
      The logits behind each prompt's last token, and a cache with ``times`` rows per prompt, side by side.

    Raises:
      ValueError: a cache layout that does not share prefixes, or has no pages where pages are asked for.
    """
    batch = prompt.tokens.shape[0]
    if prompt.rules is not None:
        return feed_by_rules(model, prompt, times)
    if prompt.sharing is None:
        capacity = max(prompt.capacity, padded_width(prompt.tokens.shape[1]))
        cache = _empty(model, prompt, capacity, prompt.length)
        logits, cache = append_tokens(model, cache, prompt.tokens, prompt.length)
        return logits, cache if times == 1 else cache.fork(jnp.repeat(jnp.arange(batch), times))
    sharing = prompt.sharing
    levels, start = _feed_levels(model, prompt, sharing)
    own_tokens, own_length = _cut(prompt.tokens, start, sharing.own_width), prompt.length - start
    if times == 1:
        room = max(prompt.capacity - sharing.spared, padded_width(sharing.own_width))
        cache = SharedPrefixCache(levels, _empty(model, prompt, room, own_length))
        return append_tokens(model, cache, own_tokens, own_length)
    # All texts of a prompt share it whole.
    cache = SharedPrefixCache(levels, _contiguous(model, batch, padded_width(sharing.own_width)))
    logits, cache = append_tokens(model, cache, own_tokens, own_length)
    assert isinstance(cache.own, ContiguousCache)
    own = PrefixLevel.of(cache.own, tuple((row, row + 1) for row in range(batch)), sharing.own_width)
    levels = tuple(level.repeated(times) for level in (*levels, own))
    empty = _empty(model, prompt, prompt.capacity - sharing.spared_by_prompts, times=times)
    return logits, SharedPrefixCache(levels, empty)


def _empty(
    model: LanguageModel, prompt: Prompt, capacity: int, own_length: Int[Array, "B"] | None = None, times: int = 1
) -> Any:
    """A cache in the layout that the prompt asks for.

    Args:
      model: the language model.
      prompt: the batch.
      capacity: slots of the row that needs the most.
      own_length: tokens of each prompt that go into it; none by default.
      times: rows per prompt.
    """
    rows, paging = prompt.tokens.shape[0], prompt.paging
    if paging is None:
        made = _contiguous if prompt.sharing is not None else LanguageModel.init_cache
        return made(model, rows * times, capacity)
    like = _contiguous(model, 1, 1, "kv_layout 'paged'")
    room = prompt.max_new_tokens + (prompt.capacity - paging.capacity)
    room = room if own_length is None else room + own_length
    return PagedCache.create(
        jnp.repeat(room, times),
        num_layers=len(like.keys),
        num_pages=times * paging.num_pages(rows, prompt.capacity, behind_prompts=own_length is None),
        capacity=capacity,
        num_kv_heads=like.keys[0].shape[1],
        head_dim=like.keys[0].shape[3],
        dtype=like.keys[0].dtype,
        page_size=paging.page_size,
    )


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
        cache = SharedPrefixCache(above, _contiguous(model, len(spans), padded_width(width)))
        _, cache = append_tokens(model, cache, _cut(prompt.tokens[first], start[first], width), length)
        assert isinstance(cache.own, ContiguousCache)
        levels = (*levels, PrefixLevel.of(cache.own, spans, width))
        start = start + levels[-1].row_length(prompt.tokens.shape[0]).astype(start.dtype)
    return levels, start


def _contiguous(model: LanguageModel, rows: int, capacity: int, wanted: str = "share_prefixes") -> ContiguousCache:
    cache = model.init_cache(rows, capacity)
    if not isinstance(cache, ContiguousCache):
        raise ValueError(f"{wanted} needs a model with a contiguous cache, this one has a {type(cache).__name__}")
    return cache


def _cut(tokens: Int[Array, "B P"], start: Int[Array, "B"], width: int) -> Int[Array, "B N"]:
    """``width`` tokens of each row from ``start`` on; any token behind the end."""
    index = start[:, None] + jnp.arange(width)
    return jnp.take_along_axis(tokens, jnp.minimum(index, tokens.shape[1] - 1), axis=1)


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
    return append_tokens(model, model.init_cache(batch, max(capacity, padded_width(padded))), tokens, length)
