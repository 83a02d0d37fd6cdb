"""Feed prompts by rules that read or keep less of them, and hand over the cache that decoding goes on with.

=================================  ================================  ================================
rule                               prompts go into                   decoding goes on with
=================================  ================================  ================================
block-sparse, vertical-slash, ...  a SparsePromptCache, in one pass  its contiguous cache
ZipVL (attention)                  the same                          the same
Quest                              a contiguous cache, in chunks     a SummarisedCache
ActQKV                             a RetrievalCache, in windows      the same
SnapKV, Ada-SnapKV                 those above, queries noted        an EvictedCache
8, 4 or 2 bits                     those above                       a QuantizedCache
ZipVL (cache)                      those above, queries noted        a QuantizedCache, two precisions
=================================  ================================  ================================
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.attention.sparse.kv_quantization import Quantized
from jaxdec.attention.sparse.quest import Quest
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.attention.sparse.snapkv import SnapKV
from jaxdec.attention.sparse.zipvl import ZipVL, ZipVLCache
from jaxdec.cache import Cache, ContiguousCache
from jaxdec.cache.evicted import EvictedCache
from jaxdec.cache.observed import ObservedCache
from jaxdec.cache.quantized import QuantizedCache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.cache.sparse_prompt import SparsePromptCache
from jaxdec.cache.summarised import SummarisedCache
from jaxdec.decoding.chunks import append_tokens, padded_width
from jaxdec.decoding.context_rules import ContextRules
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float

PROBES = 2**31 - 1
"""Folded into a row's key: a position that no text has, so that probes are no draws of the text."""


def feed_by_rules(model: LanguageModel, prompt: Any, times: int = 1) -> tuple[Float[Array, "B V"], Cache]:
    """Feed a batch of prompts by its rules.

    Args:
      model: the language model.
      prompt: the batch, a :class:`jaxdec.decoding.state.Prompt` with ``rules``.
      times: texts that go on from each prompt.

    Returns:
      The logits behind each prompt's last token, and a cache with ``times`` rows per prompt, side by side.

    Raises:
      ValueError: a model without a contiguous cache, prompts that are too short for a rule.
    """
    logits, fed = feed_only(model, prompt)
    cache = settle(fed, prompt)
    return logits, cache if times == 1 else cache.fork(jnp.repeat(jnp.arange(prompt.tokens.shape[0]), times))


def feed_only(model: LanguageModel, prompt: Any) -> tuple[Float[Array, "B V"], Cache]:
    """Feed the prompts, and return the cache that they went into: it holds what its rule has noted and counted.

    Raises:
      ValueError: see :func:`feed_by_rules`.
    """
    rules: ContextRules = prompt.rules
    attention: Any = rules.attention
    batch, num_tokens = prompt.tokens.shape
    rules.check_tokens(num_tokens)
    whole = isinstance(attention, PrefillRule | ZipVL)
    chunk = num_tokens if whole else attention.window if isinstance(attention, ActQKV) else None
    room = padded_width(num_tokens, chunk)
    kept_apart = rules.kv_cache is not None  # what follows goes elsewhere
    empty = model.init_cache(batch, room if kept_apart else max(prompt.capacity, room))
    if not isinstance(empty, ContiguousCache):
        raise ValueError(f"rules need a model with a contiguous cache, this one has a {type(empty).__name__}")
    num_layers = len(empty.keys)
    cache: Any = empty
    if whole:
        cache = SparsePromptCache(empty, prompt.length, probe_keys(prompt), attention)
    if isinstance(attention, ActQKV):
        cache = retrieval_cache(model, attention, empty, prompt)
    positions = observed_positions(rules, prompt)
    if positions is not None:
        cache = ObservedCache.of(cache, positions, num_layers)
        if not whole:  # the loop over chunks wants the shapes that the first one will give

            def first(one: Any) -> Any:
                seen: Any = model(one, one, cache).cache
                return seen.queries

            noted = jax.eval_shape(first, prompt.tokens[:, :1])
            cache = cache.replace(queries=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), noted))
    return append_tokens(model, cache, prompt.tokens, prompt.length, chunk)


def retrieval_cache(model: LanguageModel, rule: ActQKV, like: ContiguousCache, prompt: Any) -> RetrievalCache:
    """An empty layout for ActQKV, with as much room as a contiguous one.

    Raises:
      ValueError: a model that does not say how it rotates, draft trees larger than a window.
    """
    module: Any = model.module
    if not hasattr(module, "rotation"):
        raise ValueError(f"attention 'actqkv' turns keys back, and {type(module).__name__} does not say how it rotates")
    largest = 1 + prompt.capacity - prompt.rules.capacity
    if largest > rule.window:
        raise ValueError(f"window must be at least {largest}, root and draft tree; got {rule.window}")
    batch, num_kv_heads, capacity, head_dim = like.keys[0].shape
    return RetrievalCache.create(
        num_layers=len(like.keys),
        batch_size=batch,
        capacity=capacity,
        num_kv_heads=num_kv_heads,
        num_heads=module.num_heads,
        head_dim=head_dim,
        dtype=like.keys[0].dtype,
        rule=rule,
        rotation=module.rotation,
    )


def probe_keys(prompt: Any) -> Any:
    """A key per row for probes that are drawn."""
    return jax.vmap(jax.random.fold_in, (0, None))(prompt.keys, PROBES)


def observed_positions(rules: ContextRules, prompt: Any) -> Any:
    """``int[B, P]``, where the queries stand that the rule of the cache wants to see; None if it wants none."""
    if isinstance(rules.kv_cache, SnapKV):
        return rules.kv_cache.query_positions(prompt.length)
    if isinstance(rules.kv_cache, ZipVLCache):
        probes, used = rules.kv_cache.probes(prompt.length, prompt.tokens.shape[1], probe_keys(prompt))
        return jnp.where(used, probes, -1)
    return None


def settle(fed: Any, prompt: Any) -> Cache:
    """The cache that decoding goes on with, from the one that :func:`feed_only` returns."""
    rules: ContextRules = prompt.rules
    queries: Any = ()
    drafts = prompt.capacity - rules.capacity
    if isinstance(fed, ObservedCache):
        queries, fed = fed.queries, fed.inner
    if isinstance(fed, RetrievalCache):
        return fed
    whole: ContiguousCache = fed.inner if isinstance(fed, SparsePromptCache) else fed
    rule, length = rules.kv_cache, whole.length
    sides = [(seen, keys.swapaxes(1, 2)) for seen, keys in zip(queries, whole.keys)]
    if isinstance(rule, SnapKV):
        keep = [rule.choose(rule.scores_of(seen, keys, length), length) for seen, keys in sides]
        room = rule.capacity * whole.keys[0].shape[1]
        slots = whole.keys[0].shape[1] * whole.capacity
        return EvictedCache.of_prompt(whole, keep, capacity=rules.new_tokens + drafts, room=min(room, slots))
    if isinstance(rule, Quantized | ZipVLCache):
        sizes = {"window": rule.window, "bits": rule.bits, "fitted": rule.fitted, "max_new": 1 + drafts}
        num_tokens = prompt.tokens.shape[1]
        if isinstance(rule, Quantized):
            old = max(num_tokens - rule.window, 0)
            return QuantizedCache.of_prompt(whole, capacity=old + rules.new_tokens, key_bits=rule.key_bits, **sizes)
        fine, coarse = rule.rooms(num_tokens)
        probes, used = rule.probes(length, num_tokens, probe_keys(prompt))
        important = [rule.choose(*rule.scores_of(seen, probes, used, keys, length), length) for seen, keys in sides]
        sizes |= {"coarse_bits": rule.coarse_bits, "coarse_key_bits": rule.coarse_key_bits}
        sizes |= {"coarse_capacity": coarse, "capacity": fine + rules.new_tokens}
        return QuantizedCache.of_prompt(whole, important=important, **sizes)
    return SummarisedCache.of(whole, rules.attention, 1 + drafts) if isinstance(rules.attention, Quest) else whole
