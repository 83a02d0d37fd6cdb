"""Decoder-only transformer of the Llama family, with the biases of Qwen2 and the query/key norms of Qwen3.

Sources: Touvron et al. 2023 (arXiv 2302.13971) for the block: pre-norm RMSNorm (arXiv 1910.07467), rotary positions,
SwiGLU (arXiv 2002.05202); Ainslie et al. 2023 (arXiv 2305.13245) for grouped-query attention; Qwen3 (arXiv 2505.09388).

    x <- x + O softmax(q k^T / sqrt(E)) v        q, k, v = rope(W_qkv norm(x))
    x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

Query, key and value weights are one matrix, gate and up weights another: fewer, larger products.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdec.cache import Cache, ContiguousCache
from jaxdec.language_model import LanguageModel
from jaxdec.models.config import DecoderConfig
from jaxdec.models.int8 import Int8Matrix, quantize
from jaxdec.models.linear import linear
from jaxdec.models.rope import Rotation, rotate, rotation
from jaxdec.typing import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a model computes; see :class:`Transformer`."""

    dtype: Any
    row_tile: int
    int8: bool

    def matrix(self, key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "O I"] | Int8Matrix:
        """A random weight matrix, in the form the model keeps its weights in."""
        normal = nn.initializers.normal(0.02)(key, shape, self.dtype)
        return quantize(normal) if self.int8 else normal


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + epsilon) * scale``, computed in float32 at least."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (normed * scale).astype(x.dtype)


class Linear(nn.Module):
    """``x W^T + b`` with ``W`` stored (out, in) in ``dtype``; the result is float32 at least."""

    features: int
    use_bias: bool
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        """Apply the map to the last axis."""
        numerics = self.numerics
        y = linear(x, self.param("weight", numerics.matrix, (self.features, x.shape[-1])), numerics.row_tile)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), numerics.dtype)
        return y


class Attention(nn.Module):
    """Grouped-query attention of the new tokens over the cache."""

    config: DecoderConfig
    numerics: Numerics
    layer: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope: tuple[Array, Array], mask: Any, cache: Cache):
        """Append this layer's keys and values to ``cache`` and attend. Returns ``([B, T, D], cache)``."""
        config = self.config
        batch, num_new, _ = x.shape
        heads, kv_heads = config.num_heads, config.num_kv_heads
        features = (heads + 2 * kv_heads) * config.head_dim
        qkv = Linear(features, config.attention_bias, self.numerics, name="qkv")(x)
        qkv = qkv.reshape(batch, num_new, heads + 2 * kv_heads, config.head_dim)
        query, key, value = jnp.split(qkv, [heads, heads + kv_heads], axis=2)
        if config.qk_norm:
            query = RMSNorm(config.rms_norm_eps, name="query_norm")(query)
            key = RMSNorm(config.rms_norm_eps, name="key_norm")(key)
        query = rotate(query, *rope)
        cache = cache.append(self.layer, rotate(key, *rope), value).observe(self.layer, query)
        out = cache.attend(self.layer, query, mask).reshape(batch, num_new, heads * config.head_dim)
        return Linear(config.hidden_size, config.output_bias, self.numerics, name="output")(out), cache


class FeedForward(nn.Module):
    """SwiGLU."""

    config: DecoderConfig
    numerics: Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the block."""
        config = self.config
        gate_up = Linear(2 * config.intermediate_size, config.mlp_bias, self.numerics, name="gate_up")(x)
        gate, up = jnp.split(gate_up, 2, axis=-1)
        return Linear(config.hidden_size, config.mlp_bias, self.numerics, name="down")(nn.silu(gate) * up)


class Block(nn.Module):
    """One layer."""

    config: DecoderConfig
    numerics: Numerics
    layer: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope: tuple[Array, Array], mask: Any, cache: Cache):
        """Apply attention and feed-forward with residual connections. Returns ``([B, T, D], cache)``."""
        config = self.config
        normed = RMSNorm(config.rms_norm_eps, name="attention_norm")(x)
        out, cache = Attention(config, self.numerics, self.layer, name="attention")(normed, rope, mask, cache)
        x = x + out
        normed = RMSNorm(config.rms_norm_eps, name="mlp_norm")(x)
        return x + FeedForward(config, self.numerics, name="mlp")(normed), cache


class Transformer(nn.Module):
    """Decoder language model behind the contract of :mod:`jaxdec.language_model`.

    Attributes:
      config: shape of the model.
      dtype: type of weights and cache: float32, bfloat16 or float64. Activations and logits are float32 at least; they
        are rounded to ``dtype`` where they enter a product.
      row_tile: see :func:`jaxdec.models.linear.linear`.
      int8: weight matrices and what they multiply are int8 (:mod:`jaxdec.models.int8`); ``dtype`` is then that of the cache.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    row_tile: int = 1
    int8: bool = False

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        return self.config.max_position_embeddings

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.config.num_heads

    @property
    def rotation(self) -> Rotation:
        """How queries and keys are rotated, for cache layouts that turn them back."""
        return Rotation(self.config)

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """Return an empty contiguous cache in ``dtype``."""
        config = self.config
        return ContiguousCache.create(
            num_layers=config.num_layers,
            batch_size=batch_size,
            capacity=capacity,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            dtype=self.dtype,
        )

    def token_embeddings(self, params: Mapping[str, Any]) -> Float[Array, "V D"]:
        """The table of input embeddings."""
        table = params["embed"]["embedding"]
        return table.rows(jnp.arange(self.vocab_size)) if isinstance(table, Int8Matrix) else table

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        visible: Bool[Array, "B T T"] | None = None,
        logits_at: Int[Array, "B N"] | None = None,
    ):
        """Return ``(logits [B, N, V], hidden [B, T, D], cache)``; see the contract for the arguments."""
        config = self.config
        numerics = Numerics(self.dtype, self.row_tile, self.int8)
        embedding = Embedding((config.vocab_size, config.hidden_size), numerics, name="embed")()
        rows = embedding.rows(tokens) if isinstance(embedding, Int8Matrix) else jnp.take(embedding, tokens, axis=0)
        x = rows.astype(jnp.promote_types(self.dtype, jnp.float32))
        rope = rotation(config, positions)
        mask = cache.mask(tokens.shape[1], visible)
        for layer in range(config.num_layers):
            x, cache = Block(config, numerics, layer, name=f"layer_{layer}")(x, rope, mask, cache)
        hidden = RMSNorm(config.rms_norm_eps, name="final_norm")(x)
        wanted = hidden if logits_at is None else jnp.take_along_axis(hidden, logits_at[..., None], axis=1)
        if config.tie_embeddings:
            logits = linear(wanted, embedding, self.row_tile)
        else:
            logits = Linear(config.vocab_size, False, numerics, name="head")(wanted)
        return logits, hidden, cache


class Embedding(nn.Module):
    """Holds the token table ``[V, D]``."""

    shape: tuple[int, int]
    numerics: Numerics

    @nn.compact
    def __call__(self) -> Float[Array, "V D"] | Int8Matrix:
        """Return the table."""
        return self.param("embedding", self.numerics.matrix, self.shape)


def in_int8(model: LanguageModel) -> LanguageModel:
    """The same model with weight matrices rounded to int8, one after the other.

    Raises:
      ValueError: the model is no :class:`Transformer`.
    """
    module = model.module
    if not isinstance(module, Transformer):
        raise ValueError(f"model must be a Transformer, and is a {type(module).__name__}")
    params = jax.tree.map(lambda leaf: jax.jit(quantize)(leaf) if leaf.ndim == 2 else leaf, model.params)
    return model.replace(module=dataclasses.replace(module, int8=True), params=params)
