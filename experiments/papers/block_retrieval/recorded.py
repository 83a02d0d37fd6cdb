"""Queries and keys of dense passes, recorded once, and what every probe asks for when they are replayed.

All probes see the same queries and keys, so that they are compared by nothing but what they ask for. Layers are replayed side
by side, as the rows of a retrieval cache of one layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from experiments.papers.block_retrieval.texts import PLACES, Haystack
from jaxdec.attention.sparse.actqkv import PROBES, ActQKV
from jaxdec.cache import ContiguousCache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.language_model import LanguageModel
from jaxdec.models.rope import Rotation
from jaxdec.typing import Array, Bool, Float, Int

QUESTION = "question alone"
"""The probe of somebody who knows which tokens are the question: no method, but what weights could come to."""


class Recorder(struct.PyTreeNode):
    """A contiguous cache that keeps the queries of the pass that is going on, and reads everything."""

    held: ContiguousCache
    queries: tuple[Float[Array, "B T H E"], ...] = ()

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.held.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.held.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self.held.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Any:
        """Of the contiguous cache."""
        return self.held.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "Recorder":
        """Write."""
        return self.replace(held=self.held.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "Recorder":
        """Keep them."""
        return self.replace(queries=(*self.queries, queries))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: Any) -> Float[Array, "B T H E"]:
        """Read everything."""
        return self.held.attend(layer, queries, mask)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "Recorder":
        """Forget the queries."""
        return Recorder(self.held.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "Recorder":
        """Copy rows."""
        return jax.tree.map(lambda array: array[rows], self)


@dataclasses.dataclass(frozen=True)
class Recording:
    """Of one text, ``L`` layers, rotated.

    Attributes:
      queries: of the text, ``[windows, L, W, H, E]``; what is left over at its end is dropped.
      keys: of the text, ``[L, T, G, E]``.
      asked: by place and fact, queries of the windows that ask, ``[L, W, H, E]``.
      spans: by place and fact, where in its window the question is.
    """

    queries: np.ndarray
    keys: np.ndarray
    asked: Mapping[str, list[np.ndarray]]
    spans: Mapping[str, list[slice]]


@jax.jit
def _pass(model: LanguageModel, cache: Recorder, tokens: Int[Array, "B T"]) -> tuple[Float[Array, "L T H E"], Recorder]:
    """Queries of one pass, and the cache with all of it committed."""
    size = tokens.shape[1]
    positions = cache.length[:, None] + jnp.arange(size)
    after = model(tokens, positions, cache, logits_at=jnp.zeros((1, 1), jnp.int32)).cache
    assert isinstance(after, Recorder)
    return jnp.stack([queries[0] for queries in after.queries]), after.commit(None, jnp.full(1, size, jnp.int32))


def record(model: LanguageModel, text: Haystack, window: int) -> Recording:
    """Feed a text and then, each time behind it alone, every window that asks."""
    held = model.init_cache(1, len(text.tokens) + window)
    assert isinstance(held, ContiguousCache)
    cache, queries = Recorder(held), []
    for start in range(0, len(text.tokens) - window + 1, window):
        part, cache = _pass(model, cache, jnp.asarray([text.tokens[start : start + window]], jnp.int32))
        queries.append(np.asarray(part))
    fed = window * len(queries)
    asked = {
        place: [np.asarray(_pass(model, cache, jnp.asarray([tokens], jnp.int32))[0]) for tokens in text.windows[place]]
        for place in PLACES
    }
    keys = np.stack([np.asarray(side[0, :, :fed]).swapaxes(0, 1) for side in cache.held.keys])
    spans = {place: [text.asked_at(place, fact) for fact in range(len(text.facts))] for place in PLACES}
    return Recording(np.stack(queries), keys, asked, spans)


@jax.jit
def _scores(cache: RetrievalCache, queries: Float[Array, "L T H E"]) -> dict[str, Float[Array, "L N"]]:
    rules = {probe: dataclasses.replace(cache.rule, probe=probe) for probe in PROBES}
    return {probe: cache.replace(rule=rule).scores(0, queries) for probe, rule in rules.items()}


@jax.jit
def _scores_of_mean(cache: RetrievalCache, queries: Float[Array, "L T H E"]) -> Float[Array, "L N"]:
    return cache.scores(0, queries)


@jax.jit
def _step(cache: RetrievalCache, queries: Float[Array, "L T H E"], keys: Float[Array, "L T G E"]) -> RetrievalCache:
    cache = cache.append(0, keys, keys).observe(0, queries)
    return cache.commit(None, jnp.full(queries.shape[0], queries.shape[1], jnp.int32))


@dataclasses.dataclass(frozen=True)
class Asked:
    """Scores by probe, ``[L, n]`` each; of questions also :data:`QUESTION`, the mean query of a question's tokens alone.

    Attributes:
      before: of the windows of the text that had two blocks or more.
      questions: by place and fact.
    """

    before: list[dict[str, np.ndarray]]
    questions: Mapping[str, list[dict[str, np.ndarray]]]


def replay(rule: ActQKV, recording: Recording, rotation: Rotation) -> Asked:
    """Feed what was recorded to a cache of one layer, a layer a row."""
    layers, total, num_kv_heads, head_dim = recording.keys.shape
    window, num_heads = recording.queries.shape[2:4]
    cache = RetrievalCache.create(
        num_layers=1,
        batch_size=layers,
        capacity=total + window,
        num_kv_heads=num_kv_heads,
        num_heads=num_heads,
        head_dim=head_dim,
        dtype=jnp.float32,
        rule=rule,
        rotation=rotation,
    )

    def scores(queries, span=None):
        n = int(rule.num_blocks(cache.length)[0])
        found = _scores(cache, jnp.asarray(queries))
        if span is not None:  # as if the window began with the question: what is asked for at one distance less
            mean = dataclasses.replace(rule, probe="mean", distance=rule.local - span.start)
            found[QUESTION] = _scores_of_mean(cache.replace(rule=mean), jnp.asarray(queries[:, span]))
        return {probe: np.asarray(side)[:, :n] for probe, side in found.items()}

    before = []
    for number, queries in enumerate(recording.queries):
        if rule.num_blocks(cache.length)[0] > 1:
            before.append(scores(queries))
        keys = recording.keys[:, number * window : (number + 1) * window]
        cache = _step(cache, jnp.asarray(queries), jnp.asarray(keys))
    pairs = {place: zip(asked, recording.spans[place], strict=True) for place, asked in recording.asked.items()}
    return Asked(before, {place: [scores(*pair) for pair in asked] for place, asked in pairs.items()})


def block_attention(rule: ActQKV, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Share that each block has of the attention that all blocks of a text receive, ``[L, n]``: means over queries and heads.

    Args:
      rule: which blocks there are.
      queries: that ask, ``[L, Q, H, E]``.
      keys: of the text, ``[L, T, G, E]``.
    """
    layers, total, num_kv_heads, width = keys.shape
    n = int(rule.num_blocks(jnp.asarray([total]))[0])
    shares = np.zeros((layers, n))
    for layer in range(layers):
        grouped = queries[layer].reshape(queries.shape[1], num_kv_heads, -1, width)
        scores = np.einsum("qgme,tge->qgmt", grouped, keys[layer]) * width**-0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        received = weights.mean(axis=(0, 1, 2))[rule.sinks : rule.sinks + n * rule.block_size]
        shares[layer] = received.reshape(n, rule.block_size).sum(axis=1)
    return shares / shares.sum(axis=1, keepdims=True)
