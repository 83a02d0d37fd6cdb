"""One prompt under one rule: what it takes, and how likely the right continuation is among others.

The prompt is fed by the rule; what is scored comes behind it, in one pass that reads the cache that the rule has left, and is
not kept. So rules of all kinds are judged by the same tokens, whether they skip work on the prompt or memory behind it.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.long_context_rows import Row
from jaxdec.cache.evicted import EvictedCache
from jaxdec.cache.observed import ObservedCache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.cache.sparse_prompt import SparsePromptCache, mean_sparsity
from jaxdec.cache.summarised import SummarisedCache
from jaxdec.context_rules import with_rules
from jaxdec.decoding.long_prompts import feed_only, settle
from jaxdec.decoding.prefill import feed_prompt
from jaxdec.decoding.state import Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int

STEPS = 8
"""Single tokens that are fed to time a step of decoding."""


class Continuations(NamedTuple):
    """What may follow a prompt.

    Attributes:
      tokens: ``int32[N, T]``, right-padded.
      scored: ``bool[N, T]``, tokens whose likelihood counts; the others are given.
    """

    tokens: np.ndarray
    scored: np.ndarray


def prepared(tokens: Sequence[int], row: Row, width: int) -> Prompt:
    """The prompt of batch 1 with the row's rules, and room for ``width`` tokens behind it that are not kept."""
    prompt = with_rules(Prompt.create([list(tokens)], STEPS), row.attention, row.kv_cache)
    return prompt.replace(capacity=prompt.capacity + width)


@jax.jit
def fed(model: LanguageModel, prompt: Prompt) -> tuple[Float[Array, "1 V"], Any, Float[Array, ""], Float[Array, ""]]:
    """Feed a prompt. Returns logits, cache, and shares left out: of the prompt's cells, and of its tokens by steps."""
    skipped = unread = jnp.float32(0)
    if prompt.rules is None:
        logits, cache = feed_prompt(model, prompt)
        return logits, cache, skipped, unread
    logits, whole = feed_only(model, prompt)
    inner = whole.inner if isinstance(whole, ObservedCache) else whole
    if isinstance(inner, SparsePromptCache):
        skipped = mean_sparsity(inner)[0]
    cache = settle(whole, prompt)
    length = prompt.length[0]
    if isinstance(cache, SummarisedCache):
        whole_pages = length // cache.rule.page_size * cache.rule.page_size
        unread = jnp.maximum(whole_pages - cache.rule.budget, 0) / length
    if isinstance(cache, RetrievalCache):  # of its last pass over the prompt, which reads as a step does
        unread = jnp.maximum(1 - cache.tokens_read[0].mean() / length, 0)
    if isinstance(cache, EvictedCache):
        kept = jnp.stack([layer.count[0].mean() for layer in cache.kept])
        unread = 1 - kept.mean() / length
    return logits, cache, skipped, unread


@jax.jit
def log_probs(
    model: LanguageModel, logits: Float[Array, "1 V"], cache: Any, start: Int[Array, ""], tokens: Int[Array, "N T"]
) -> Float[Array, "N T"]:
    """Log-probability of every token of every continuation."""

    def of_one(row):
        positions = start + jnp.arange(row.shape[0])
        behind = model(row[None], positions[None], cache).logits[0]
        laws = jax.nn.log_softmax(jnp.concatenate([logits, behind[:-1]]), axis=-1)
        return jnp.take_along_axis(laws, row[:, None], axis=1)[:, 0]

    return jax.lax.map(of_one, tokens)


@functools.partial(jax.jit, static_argnames="steps")
def greedy_steps(model: LanguageModel, logits: Float[Array, "1 V"], cache: Any, start: Int[Array, ""], steps: int):
    """Feed so many single tokens, each the likeliest; returns the last logits."""

    def step(carry, number):
        logits, cache = carry
        out = model(jnp.argmax(logits, axis=-1)[:, None].astype(jnp.int32), (start + number)[None, None], cache)
        return (out.logits[:, 0], out.cache.commit(None, jnp.ones(1, jnp.int32))), None

    return jax.lax.scan(step, (logits, cache), jnp.arange(steps))[0][0]


def measure(model: LanguageModel, prompt: Prompt, continuations: Continuations, warm: bool) -> dict[str, Any]:
    """Feed, score and time one prompt.

    Args:
      model: the language model.
      prompt: see :func:`prepared`.
      continuations: what may follow.
      warm: whether all programs have run before; else they run once more before the clock does.

    Returns:
      ``prefill_seconds``, ``step_seconds``, ``cache_bytes``, ``prefill_sparsity``, ``decode_sparsity``, and ``log_probs``: the
      mean over the scored tokens of each continuation, in nats.
    """
    start = prompt.length[0]

    def feed():
        return jax.block_until_ready(fed(model, prompt))

    def decode(logits, cache):
        return jax.block_until_ready(greedy_steps(model, logits, cache, start, STEPS))

    if not warm:
        logits, cache, *_ = feed()
        decode(logits, cache)
    begin = time.perf_counter()
    logits, cache, skipped, unread = feed()
    first = time.perf_counter()
    decode(logits, cache)
    last = time.perf_counter()
    scores = np.asarray(log_probs(model, logits, cache, start, jnp.asarray(continuations.tokens)), np.float64)
    means = (scores * continuations.scored).sum(axis=1) / continuations.scored.sum(axis=1)
    return {
        "prefill_seconds": first - begin,
        "step_seconds": (last - first) / STEPS,
        "cache_bytes": int(cache.nbytes),
        "prefill_sparsity": float(skipped),
        "decode_sparsity": float(unread),
        "log_probs": means.tolist(),
    }
