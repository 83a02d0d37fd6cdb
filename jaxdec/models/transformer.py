"""Decoder-only transformer of the Llama family, with the biases of Qwen2 and the query/key norms of Qwen3.

Sources: Touvron et al. 2023 (arXiv 2302.13971) for the block: pre-norm RMSNorm (arXiv 1910.07467), rotary positions,
SwiGLU (arXiv 2002.05202); Ainslie et al. 2023 (arXiv 2305.13245) for grouped-query attention; Qwen3 (arXiv 2505.09388).

    x <- x + O softmax(q k^T / sqrt(E)) v        q, k, v = rope(W_qkv norm(x))
    x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

Query, key and value weights are one matrix, gate and up weights another: fewer, larger products.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdec.cache import Cache, ContiguousCache
from jaxdec.models.config import DecoderConfig
from jaxdec.models.linear import linear
from jaxdec.models.rope import rotate, rotation
from jaxdec.typing import Array, Bool, Float, Int


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
    dtype: Any
    row_tile: int

    @nn.compact
    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        """Apply the map to the last axis."""
        shape = (self.features, x.shape[-1])
        y = linear(x, self.param("weight", nn.initializers.normal(0.02), shape, self.dtype), self.row_tile)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.dtype)
        return y


class Attention(nn.Module):
    """Grouped-query attention of the new tokens over the cache."""

    config: DecoderConfig
    dtype: Any
    row_tile: int
    layer: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope: tuple[Array, Array], mask: Any, cache: Cache):
        """Append this layer's keys and values to ``cache`` and attend. Returns ``([B, T, D], cache)``."""
        config = self.config
        batch, num_new, _ = x.shape
        heads, kv_heads = config.num_heads, config.num_kv_heads
        features = (heads + 2 * kv_heads) * config.head_dim
        qkv = Linear(features, config.attention_bias, self.dtype, self.row_tile, name="qkv")(x)
        qkv = qkv.reshape(batch, num_new, heads + 2 * kv_heads, config.head_dim)
        query, key, value = jnp.split(qkv, [heads, heads + kv_heads], axis=2)
        if config.qk_norm:
            query = RMSNorm(config.rms_norm_eps, name="query_norm")(query)
            key = RMSNorm(config.rms_norm_eps, name="key_norm")(key)
        cache = cache.append(self.layer, rotate(key, *rope), value)
        out = cache.attend(self.layer, rotate(query, *rope), mask).reshape(batch, num_new, heads * config.head_dim)
        return Linear(config.hidden_size, config.output_bias, self.dtype, self.row_tile, name="output")(out), cache


class FeedForward(nn.Module):
    """SwiGLU."""

    config: DecoderConfig
    dtype: Any
    row_tile: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the block."""
        config = self.config
        gate_up = Linear(2 * config.intermediate_size, config.mlp_bias, self.dtype, self.row_tile, name="gate_up")(x)
        gate, up = jnp.split(gate_up, 2, axis=-1)
        return Linear(config.hidden_size, config.mlp_bias, self.dtype, self.row_tile, name="down")(nn.silu(gate) * up)


class Block(nn.Module):
    """One layer."""

    config: DecoderConfig
    dtype: Any
    row_tile: int
    layer: int

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], rope: tuple[Array, Array], mask: Any, cache: Cache):
        """Apply attention and feed-forward with residual connections. Returns ``([B, T, D], cache)``."""
        config = self.config
        normed = RMSNorm(config.rms_norm_eps, name="attention_norm")(x)
        out, cache = Attention(config, self.dtype, self.row_tile, self.layer, name="attention")(
            normed, rope, mask, cache
        )
        x = x + out
        normed = RMSNorm(config.rms_norm_eps, name="mlp_norm")(x)
        return x + FeedForward(config, self.dtype, self.row_tile, name="mlp")(normed), cache


class Transformer(nn.Module):
    """Decoder language model behind the contract of :mod:`jaxdec.language_model`.

    Attributes:
      config: shape of the model.
      dtype: type of weights and cache: float32, bfloat16 or float64. Activations and logits are float32 at least; they
        are rounded to ``dtype`` where they enter a product.
      row_tile: see :func:`jaxdec.models.linear.linear`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    row_tile: int = 1

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        return self.config.max_position_embeddings

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
        return params["embed"]["embedding"]

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
        shape = (config.vocab_size, config.hidden_size)
        embedding = Embedding(shape, self.dtype, name="embed")()
        x = jnp.take(embedding, tokens, axis=0).astype(jnp.promote_types(self.dtype, jnp.float32))
        rope = rotation(config, positions)
        mask = cache.mask(tokens.shape[1], visible)
        for layer in range(config.num_layers):
            x, cache = Block(config, self.dtype, self.row_tile, layer, name=f"layer_{layer}")(x, rope, mask, cache)
        hidden = RMSNorm(config.rms_norm_eps, name="final_norm")(x)
        wanted = hidden if logits_at is None else jnp.take_along_axis(hidden, logits_at[..., None], axis=1)
        if config.tie_embeddings:
            logits = linear(wanted, embedding, self.row_tile)
        else:
            logits = Linear(config.vocab_size, False, self.dtype, self.row_tile, name="head")(wanted)
        return logits, hidden, cache


class Embedding(nn.Module):
    """Holds the token table ``[V, D]``."""

    shape: tuple[int, int]
    dtype: Any

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        """Return the table."""
        return self.param("embedding", nn.initializers.normal(0.02), self.shape, self.dtype)
