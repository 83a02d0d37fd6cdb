"""CRATE-BERT: CRATE layers over text in both directions, with a masked-language-model head.

Yu et al. 2023 (arXiv 2311.13110), in the layout of the port to Hugging Face transformers: tokens, positions and
one segment are embedded and normalised; attention has no bias; the head is RoBERTa's (Liu et al. 2019, arXiv 1907.11692):

    logits = LN(gelu(Linear(x))) T^T + b           T the token table

Positions count from one behind the padding token's id, as in RoBERTa.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxdec.models.crate import CrateConfig, CrateLayer, LayerNorm
from jaxdec.models.crate_classifier import Affine
from jaxdec.models.linear import linear
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class CrateBertConfig:
    """Shape of a :class:`CrateBert`.

    Attributes:
      layers: shape of the layers; without an output bias as published (:func:`published`).
      vocab_size: tokens.
      max_position_embeddings: rows of the table of positions; texts are shorter by ``padding_token + 1``.
      padding_token: id of padding, where positions begin.
      embedding_norm_eps: of the norm behind the embeddings and of the head's.
    """

    layers: CrateConfig
    vocab_size: int
    max_position_embeddings: int
    padding_token: int = 1
    embedding_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")
        if not 0 <= self.padding_token < self.vocab_size:
            raise ValueError(f"padding_token must be in [0, {self.vocab_size}), got {self.padding_token}")
        if self.longest < 1:
            raise ValueError(
                f"max_position_embeddings must be above padding_token + 1 = {self.padding_token + 1}, "
                f"got {self.max_position_embeddings}"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.max_position_embeddings - self.padding_token - 1


def published(vocab_size: int = 50265, max_position_embeddings: int = 514) -> CrateBertConfig:
    """CRATE-BERT base, with RoBERTa's tokens."""
    layers = CrateConfig(hidden_size=768, num_layers=12, num_heads=12, output_bias=False)
    return CrateBertConfig(layers, vocab_size, max_position_embeddings)


class CrateBert(nn.Module):
    """See the module."""

    config: CrateBertConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"]) -> tuple[Float[Array, "B T V"], Float[Array, "B T D"]]:
        """Return logits of every place and the last layer's tokens.

        Args:
          tokens: ids; what equals ``padding_token`` is seen by no token but itself.

        Raises:
          ValueError: texts longer than the positions go.
        """
        config, layers = self.config, self.config.layers
        if tokens.shape[1] > config.longest:
            raise ValueError(f"tokens must be at most {config.longest} long, got {tokens.shape[1]}")
        normal, width = nn.initializers.normal(0.02), layers.hidden_size
        table = self.param("token_table", normal, (config.vocab_size, width))
        places = self.param("position_table", normal, (config.max_position_embeddings, width))
        segment = self.param("segment", normal, (width,))
        real = tokens != config.padding_token
        positions = jnp.where(real, jnp.cumsum(real, axis=1), 0) + config.padding_token
        x = jnp.take(table, tokens, axis=0) + segment + jnp.take(places, positions, axis=0)
        x = LayerNorm(config.embedding_norm_eps, name="embedding_norm")(x)
        visible: Bool[Array, "B T T"] = real[:, None, :] | jnp.eye(tokens.shape[1], dtype=bool)
        for layer in range(layers.num_layers):
            x = CrateLayer(layers, name=f"layer_{layer}")(x, visible)
        head = nn.gelu(Affine(width, name="head")(x), approximate=False)
        head = LayerNorm(config.embedding_norm_eps, name="head_norm")(head)
        return linear(head, table) + self.param("head_bias", nn.initializers.zeros, (config.vocab_size,)), x
