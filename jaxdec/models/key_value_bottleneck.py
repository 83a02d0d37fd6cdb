"""The Discrete Key-Value Bottleneck: a frozen map from embeddings to places of a memory, which learns only where it is read.

Traeuble et al. 2023 (ICML, arXiv 2207.11240). Between a frozen encoder and a decoder lie ``C`` codebooks of ``K`` pairs, a key
and a value each. Of an embedding ``z``,

    h_c = P_c^T z                           random heads: columns of P_c have unit norm, and never learn
    j_c = argmin_j |h_c - k_cj|^2           keys learn without labels (vector_quantization.py), and are then frozen
    logits = decode(v_1,j_1, ..., v_C,j_C)  values are all that learns from labels

An input touches one value of each codebook, so that learning of one part of the inputs leaves the memory of other parts as it
was: no replay, no signal of a new task. The voting decoder has no parameters: logits are the mean of what was fetched.

Three modes, each a method: ``init_keys`` learns keys, ``train_values`` counts what it fetches, ``evaluate`` reaches only pairs
that were counted. Variables lie in three collections: ``params`` (values, and the decoder's own), ``bottleneck`` (projections,
keys and what they were made of), ``usage`` (hits). Only ``init_keys`` needs ``bottleneck`` to be mutable, so that Flax itself
refuses to train values while keys change.

Letters: ``B`` inputs, ``n`` tokens of each, ``M`` width of an embedding, ``C`` codebooks, ``K`` pairs of each, ``E`` numbers in
a key, ``V`` numbers in a value, ``R`` pairs fetched from a codebook, ``Y`` classes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdec.models.vector_quantization import Codebooks, ema_update, kmeans, random_codebooks
from jaxdec.typing import Array, Bool, Float, Int, Key
from pallas_kernels.nearest_key import nearest_key
from pallas_kernels.nearest_key.origin import seen_from_a_key, squared_distances

DECODERS = ("voting", "linear", "mlp")
HEADS = ("random", "chunk")


@dataclasses.dataclass(frozen=True)
class BottleneckConfig:
    """Sizes and switches of :class:`KeyValueBottleneck`; the defaults are those of the paper's sweeps.

    Attributes:
      embedding_dim: width of an embedding.
      num_classes: logits.
      value_dim: numbers in a value; the voting decoder needs ``num_classes``.
      num_codebooks: ``C``.
      num_pairs: ``K``, of each codebook.
      key_dim: numbers in a key.
      heads: ``"random"`` projections, or ``"chunk"``: each codebook sees its part of the embedding.
      topk: pairs that are fetched from each codebook.
      decoder: ``"voting"``; ``"linear"`` or ``"mlp"`` over the values of all codebooks side by side, means over tokens.
      mlp_width: of the hidden layer.
      value_scale: standard deviation of the values at the start.
      decay: of the moving averages that keys are made of.
      epsilon: their smoothing.
      dead_below: share of an even distribution below which a key is drawn anew.
    """

    embedding_dim: int
    num_classes: int
    value_dim: int
    num_codebooks: int = 256
    num_pairs: int = 4096
    key_dim: int = 14
    heads: str = "random"
    topk: int = 1
    decoder: str = "voting"
    mlp_width: int = 128
    value_scale: float = 0.0
    decay: float = 0.95
    epsilon: float = 1e-5
    dead_below: float = 0.1

    def __post_init__(self):
        sizes = "embedding_dim num_classes value_dim num_codebooks num_pairs key_dim topk mlp_width"
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.topk > self.num_pairs:
            raise ValueError(f"topk must be at most num_pairs, {self.num_pairs}; got {self.topk}")
        for name, allowed in {"decoder": DECODERS, "heads": HEADS}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.decoder == "voting" and self.value_dim != self.num_classes:
            raise ValueError(f"value_dim must be num_classes, {self.num_classes}, to vote; got {self.value_dim}")
        if self.heads == "chunk" and self.num_codebooks * self.key_dim != self.embedding_dim:
            raise ValueError(
                f"embedding_dim must be num_codebooks * key_dim, {self.num_codebooks * self.key_dim}, for heads that are "
                f"chunks of it; got {self.embedding_dim}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {self.epsilon}")
        for name in ("dead_below", "value_scale"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")


class Fetched(NamedTuple):
    """What was read.

    Attributes:
      values: gathered from the parameters, so that their gradient is zero wherever nothing was fetched.
      index: place of each pair in its codebook; -1 where fewer pairs may be reached than are asked for, and the value is NaN.
      distance: squared, from head to key.
    """

    values: Float[Array, "B C R n V"]
    index: Int[Array, "B C R n"]
    distance: Float[Array, "B C R n"]


def projections(key: Key[Array, ""], config: BottleneckConfig) -> Float[Array, "C M E"]:
    """The heads' projections: normal entries with columns of unit norm, or the columns of the identity for chunks."""
    shape = (config.num_codebooks, config.embedding_dim, config.key_dim)
    if config.heads == "chunk":
        return jnp.eye(config.embedding_dim).reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1)
    normal = jax.random.normal(key, shape)
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def nearest_pairs(
    heads: Float[Array, "C N E"], keys: Float[Array, "C K E"], used: Bool[Array, "C K"] | None, count: int
) -> Int[Array, "C N R"]:
    """The ``count`` nearest keys, the nearest one first; -1 behind the last key in use."""
    if count == 1:
        return nearest_key(heads, keys, used)[0][..., None]

    def of_one(codebook: tuple[Array, ...]) -> Array:
        queries, keys, bias = seen_from_a_key(codebook[0], codebook[1], codebook[2] if len(codebook) > 2 else None)
        scores = jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST) + bias
        best, index = jax.lax.top_k(scores, count)
        return jnp.where(best > -jnp.inf, index, -1)

    return jax.lax.map(of_one, (heads, keys) if used is None else (heads, keys, used))


class Decoder(nn.Module):
    """From fetched values to logits."""

    config: BottleneckConfig

    @nn.compact
    def __call__(self, values: Float[Array, "B C R n V"]) -> Float[Array, "B Y"]:
        """The mean over codebooks, pairs and tokens; or layers over the means over pairs and tokens, side by side."""
        config = self.config
        if config.decoder == "voting":
            return values.mean((1, 2, 3))
        x = values.mean((2, 3)).reshape(values.shape[0], -1)
        if config.decoder == "mlp":
            x = nn.relu(nn.Dense(config.mlp_width, name="hidden")(x))
        return nn.Dense(config.num_classes, name="logits")(x)


class KeyValueBottleneck(nn.Module):
    """The bottleneck and its decoder, behind embeddings of a frozen encoder (in evaluation mode, without gradients).

    Embeddings are ``[B, M]``, or ``[B, ..., M]`` with tokens between.
    """

    config: BottleneckConfig

    def setup(self):
        """Create the variables."""
        config = self.config
        sizes = (config.num_codebooks, config.num_pairs)

        def start() -> Codebooks:
            return random_codebooks(self.make_rng("params"), *sizes, config.key_dim)

        def heads() -> Array:
            return projections(self.make_rng("params"), config)

        self.projections = self.variable("bottleneck", "projections", heads)
        self.codebooks = self.variable("bottleneck", "codebooks", start)
        self.key_updates = self.variable("bottleneck", "key_updates", lambda: jnp.int32(0))
        self.hits = self.variable("usage", "hits", lambda: jnp.zeros(sizes, jnp.int32))
        initial = nn.initializers.normal(config.value_scale) if config.value_scale else nn.initializers.zeros
        self.values = self.param("values", initial, (*sizes, config.value_dim))
        self.decoder = Decoder(config)

    def heads(self, embeddings: Float[Array, "B *n M"]) -> Float[Array, "C N E"]:
        """``P_c^T z`` for all tokens, float32, without a gradient.

        Raises:
          ValueError: embeddings of another width; numbers that are not finite, where they are known.
        """
        config = self.config
        if embeddings.ndim < 2 or embeddings.shape[-1] != config.embedding_dim:
            raise ValueError(
                f"embeddings must have shape [B, ..., {config.embedding_dim}]; got {list(embeddings.shape)}"
            )
        check_finite(embeddings)
        rows = jax.lax.stop_gradient(embeddings).reshape(-1, config.embedding_dim).astype(jnp.float32)
        return jnp.einsum("nm,cme->cne", rows, self.projections.value, precision=jax.lax.Precision.HIGHEST)

    def fetch(self, embeddings: Float[Array, "B *n M"], used: Bool[Array, "C K"] | None = None) -> Fetched:
        """Read the nearest pairs, among those in use."""
        config = self.config
        heads, keys = self.heads(embeddings), self.codebooks.value.keys
        index = nearest_pairs(heads, keys, used, config.topk)
        index = index.reshape(config.num_codebooks, -1)
        values = self.values[jnp.arange(config.num_codebooks)[:, None], jnp.maximum(index, 0)]
        if used is not None:
            values = jnp.where(index[..., None] < 0, jnp.nan, values)
        distance = squared_distances(jnp.repeat(heads, config.topk, axis=1), keys, index)

        def ordered(array: Array) -> Array:
            by_token = array.reshape(config.num_codebooks, embeddings.shape[0], -1, config.topk, *array.shape[2:])
            return jnp.moveaxis(by_token, (1, 0, 3, 2), (0, 1, 2, 3))

        return Fetched(ordered(values), ordered(index), ordered(distance))

    def __call__(self, embeddings: Float[Array, "B *n M"]) -> Float[Array, "B Y"]:
        """Logits from all pairs, counting nothing: what ``init`` runs."""
        return self.decoder(self.fetch(embeddings).values)

    def init_keys(self, embeddings: Float[Array, "B *n M"], key: Key[Array, ""]) -> Float[Array, ""]:
        """Learn keys from a batch without labels. ``bottleneck`` must be mutable.

        Args:
          embeddings: a batch.
          key: another one for each batch; draws what replaces dead keys.

        Returns:
          The mean squared distance of heads to their keys before the batch.
        """
        config = self.config
        self.codebooks.value, error = ema_update(
            self.codebooks.value,
            self.heads(embeddings),
            key,
            decay=config.decay,
            epsilon=config.epsilon,
            dead_below=config.dead_below,
        )
        self.key_updates.value += 1
        return error

    def kmeans_keys(self, embeddings: Float[Array, "B *n M"], key: Key[Array, ""], iterations: int = 10) -> None:
        """Learn keys from all embeddings at once, by k-means. ``bottleneck`` must be mutable."""
        self.codebooks.value = kmeans(self.heads(embeddings), key, self.config.num_pairs, iterations)
        self.key_updates.value += 1

    def train_values(self, embeddings: Float[Array, "B *n M"]) -> Float[Array, "B Y"]:
        """Logits from all pairs, counting each that is fetched. ``usage`` must be mutable.

        Raises:
          ValueError: keys that have learned nothing yet, where that is known; under ``jit`` logits are then NaN.
        """
        check_keys_learned(self.key_updates.value)
        fetched = self.fetch(embeddings)
        codebook = jnp.arange(self.config.num_codebooks)[:, None, None]
        self.hits.value = self.hits.value.at[codebook, fetched.index].add(1)
        return self._after_key_init(self.decoder(fetched.values))

    def evaluate(self, embeddings: Float[Array, "B *n M"]) -> Float[Array, "B Y"]:
        """Logits from the pairs that were fetched while training, counting nothing.

        Raises:
          ValueError: keys that have learned nothing yet, or codebooks of which fewer than ``topk`` pairs were ever fetched,
            where that is known; under ``jit`` logits are then NaN.
        """
        check_keys_learned(self.key_updates.value)
        hits = self.hits.value
        if not isinstance(hits, Tracer) and (fewest := int((np.asarray(hits) > 0).sum(-1).min())) < self.config.topk:
            raise ValueError(
                f"hits must be positive for at least {self.config.topk} pairs of each codebook, those that training fetched; "
                f"got {fewest}: train values first"
            )
        return self._after_key_init(self.decoder(self.fetch(embeddings, hits > 0).values))

    def _after_key_init(self, logits: Float[Array, "B Y"]) -> Float[Array, "B Y"]:
        return jnp.where(self.key_updates.value > 0, logits, jnp.nan)


def check_keys_learned(key_updates: Int[Array, ""]) -> None:
    """Raise ValueError if keys have learned nothing yet, where that is known."""
    if not isinstance(key_updates, Tracer) and np.asarray(key_updates) < 1:
        raise ValueError(f"key_updates must be at least 1: learn keys before values; got {int(key_updates)}")


def check_finite(embeddings: Float[Array, "*shape"]) -> None:
    """Raise ValueError if some number is not finite, where they are known."""
    if not isinstance(embeddings, Tracer) and not np.isfinite(np.asarray(embeddings)).all():
        raise ValueError("embeddings must be finite; got NaN or infinity")


def key_usage(variables: Mapping[str, Any]) -> dict[str, float]:
    """Share of pairs that training never fetched, and perplexity of what it fetched over the pairs of a codebook, a mean.

    Args:
      variables: of a :class:`KeyValueBottleneck`, after training.
    """
    hits = np.asarray(variables["usage"]["hits"], np.float64)
    share = hits / np.maximum(hits.sum(-1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(-1)
    return {"unused": float((hits == 0).mean()), "perplexity": float(np.exp(entropy).mean())}
