"""What rules leave of SmolLM2's attention: mass recalled, and error of the output, in some layers over real text.

Recall of a query is the share of its dense softmax weights that lies on what the rule reads; the error is that of the layer's
attention output, ``|o - o_dense| / |o_dense|`` over all queries and heads. Rules of the prompt: all queries of the text.
Rules of decoding: the last tokens of the text are fed behind a prompt of those before, all of them at once.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from experiments.papers.long_context.swept_caches import OfOnePurpose
from experiments.papers.progress import Progress
from jaxdec.attention.dense import SlotMask, dense_attention, dense_attention_state
from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.gathered import sparse_attention_counted
from jaxdec.attention.sparse.quest import PageSummary, Quest
from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.attention.sparse.snapkv import SnapKV
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int

SCORED, LOCAL, TILE, SINKS, PAGE = 64, 32, 32, 4, 16
DECODED = 32
"""Tokens that are fed behind the prompt."""
EVERYTHING = 1.0
"""A compression at which nothing is left out."""
FLEX_ALPHA = {1.0: 1.0, 2.0: 0.97, 4.0: 0.9, 8.0: 0.75, 16.0: 0.5}


class Capture(struct.PyTreeNode, OfOnePurpose):
    """The cache of one pass that keeps queries, keys and values of some layers."""

    length: Int[Array, "B"]
    layers: tuple[int, ...] = struct.field(pytree_node=False)
    keys: Any = None
    values: Any = None
    kept: tuple[Any, ...] = ()

    def mask(self, num_new: int, visible: Any) -> SlotMask:
        """Causal."""
        batch = self.length.shape[0]
        causal = jnp.broadcast_to(jnp.tri(num_new, dtype=bool), (batch, num_new, num_new))
        return SlotMask(causal, jnp.full(batch, num_new, jnp.int32), causal=True)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "Capture":
        """Hold this layer's keys and values."""
        return self.replace(keys=keys, values=values)

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "Capture":
        """Keep the layer if it is asked for."""
        return self if layer not in self.layers else self.replace(kept=(*self.kept, (queries, self.keys, self.values)))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Dense."""
        return dense_attention(queries, self.keys.swapaxes(1, 2), self.values.swapaxes(1, 2), mask)


@functools.partial(jax.jit, static_argnames="layers")
def capture(model: LanguageModel, tokens: Int[Array, "1 T"], layers: tuple[int, ...]) -> tuple[Any, ...]:
    """Queries, keys and values of each of the layers."""
    positions = jnp.arange(tokens.shape[1])[None]
    cache: Any = Capture(jnp.zeros(1, jnp.int32), layers)
    return model(tokens, positions, cache, logits_at=jnp.zeros((1, 1), jnp.int32)).cache.kept  # type: ignore[attr-defined]


def prefill_rule(method: str, length: int, compression: float) -> Any:
    """A rule of the prompt at about a compression; 1 leaves nothing out.

    Raises:
      ValueError: an unknown method.
    """
    dense = compression == EVERYTHING
    sizes = {"window": SCORED, "sinks": SINKS, "local": LOCAL, "tile": TILE}
    if method == "vertical_slash":
        count = length if dense else max(round(length / (2.8 * compression)), LOCAL)
        return VerticalSlash(count, count, **sizes)
    if method == "flex_prefill":
        return FlexPrefill(FLEX_ALPHA[compression], LOCAL, **sizes)
    if method == "block_sparse":
        return BlockSparse.at_compression(compression, length)
    raise ValueError(f"method must be one of vertical_slash, flex_prefill, block_sparse; got {method!r}")


@functools.partial(jax.jit, static_argnames="rule")
def prefill_recall(layer: Any, rule: Any) -> tuple[Array, Array, Array]:
    """Recall, error and sparsity of one layer under a rule of the prompt."""
    q, k, v = layer
    lengths = jnp.full(1, q.shape[1], jnp.int32)
    mask = Capture(lengths, ()).mask(q.shape[1], None)
    dense, whole = dense_attention_state(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
    out, part, skipped = sparse_attention_counted(q, k, v, lengths, rule)
    return jnp.exp(part - whole).mean(), _error(out, dense), skipped.mean()


def kept_by(method: str, compression: float, layer: Any, prompt: int) -> Bool[Array, "1 H N T"]:
    """What the tokens behind a prompt read under a rule of decoding, those behind the prompt among it."""
    q, k, _ = layer
    total, heads, groups = q.shape[1], q.shape[2], k.shape[2]
    budget = max(round(prompt / compression), SINKS + LOCAL + 1)
    causal = jnp.arange(total) <= jnp.arange(prompt, total)[:, None]
    if method == "quest":
        room = -(-total // PAGE) * PAGE
        keys = jnp.pad(k, ((0, 0), (0, room - total), (0, 0), (0, 0))).swapaxes(1, 2)
        rule = Quest(-(-budget // PAGE) * PAGE, PAGE)
        mask = rule.mask(q[:, prompt:], PageSummary.of(keys, PAGE), jnp.full(1, prompt, jnp.int32))
        return mask[..., :total]
    kind = {"snapkv": SnapKV, "ada_snapkv": AdaSnapKV}[method]
    rule = kind(budget, window=SCORED, kernel=7, sinks=SINKS, local=LOCAL)
    keep = rule.keep(q[:, :prompt], k[:, :prompt], jnp.full(1, prompt, jnp.int32))
    keep = jnp.pad(keep, ((0, 0), (0, 0), (0, total - prompt)), constant_values=True)
    return jnp.repeat(keep, heads // groups, axis=1)[:, :, None] & causal


@functools.partial(jax.jit, static_argnames=("method", "compression", "prompt"))
def decode_recall(layer: Any, method: str, compression: float, prompt: int) -> tuple[Array, Array, Array]:
    """Recall, error, and the share of the prompt that is not read, of one layer under a rule of decoding."""
    q, k, v = layer
    total = q.shape[1]
    causal = jnp.arange(total) <= jnp.arange(prompt, total)[:, None]
    read = kept_by(method, compression, layer, prompt)
    group = q.shape[2] // k.shape[2]
    scores = jnp.einsum("bthe,bshe->bhts", q[:, prompt:], jnp.repeat(k, group, axis=2)) / q.shape[3] ** 0.5
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    recall = jnp.where(read, weights, 0).sum(axis=-1).mean()
    every = jnp.broadcast_to(causal, read.shape)
    out, dense = (masked_attention(q[:, prompt:], k, v, mask) for mask in (read, every))
    return recall, _error(out, dense), 1 - read[..., :prompt].mean(dtype=jnp.float32)


def _error(out: Float[Array, "*dims"], dense: Float[Array, "*dims"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.square(out - dense).sum() / jnp.square(dense).sum())


def recall_part(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    config: Any,
    methods: dict[str, Sequence[str]],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Every rule on every text, layer and compression.

    Args:
      model: the language model.
      texts: token ids; each of a length of the config at most ``DECODED`` longer.
      config: ``layers``, ``compressions``, and ``prefill_longest``, the longest text on which rules of the prompt are tried.
      methods: by phase.
      progress: shown meanwhile.

    Returns:
      Entries with ``phase``, ``method``, ``nominal``, ``length``, ``layer``, ``recall``, ``error``, ``sparsity``.
    """
    found = []
    with progress.task("attention of the model", len(texts)) as advance:
        for text in texts:
            layers = capture(model, jnp.asarray([text], jnp.int32), tuple(config["layers"]))
            for number, layer in zip(config["layers"], layers, strict=True):
                for phase, names in methods.items():
                    if phase == "prefill" and len(text) > config["prefill_longest"]:
                        continue
                    for method in names:
                        for compression in (EVERYTHING, *config["compressions"]):
                            if phase == "prefill":
                                rule = prefill_rule(method, len(text), compression)
                                values = prefill_recall(layer, rule)
                            else:
                                values = decode_recall(layer, method, compression, len(text) - DECODED)
                            recall, error, sparsity = map(float, np.asarray(jnp.stack(values)))
                            about = {"phase": phase, "method": method, "nominal": compression, "layer": number}
                            numbers = {"recall": recall, "error": error, "sparsity": sparsity}
                            found.append(about | {"length": len(text)} | numbers)
            advance(f"{len(text)} tokens")
    return found
