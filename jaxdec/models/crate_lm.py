"""CRATE-GPT: CRATE layers with causal attention, behind the language-model contract, so that every decoding method runs on it.

Yu et al. 2023, "White-Box Transformers via Sparse Rate Reduction: Compression Is All There Is?" (arXiv 2311.13110), in
the shape of GPT-2: learnt absolute positions, a final norm, an output head tied to the token table. What a token is in
the subspaces is its query, its key and its value, so a key/value cache holds the same numbers twice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdec.cache import Cache, ContiguousCache
from jaxdec.models.crate import SIZES, CrateConfig, CrateLayer, LayerNorm
from jaxdec.models.linear import linear
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class CrateLMConfig:
    """Shape of a :class:`CrateLM`.

    Attributes:
      layers: shape of the layers.
      vocab_size: tokens.
      max_position_embeddings: longest context.
    """

    layers: CrateConfig
    vocab_size: int
    max_position_embeddings: int

    def __post_init__(self):
        for name in ("vocab_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def published() -> CrateLMConfig:
    """CRATE-GPT base: 60 million parameters, GPT-2's tokens, 1024 positions."""
    return CrateLMConfig(SIZES["base"], vocab_size=50257, max_position_embeddings=1024)


class CrateLM(nn.Module):
    """See the module.

    Attributes:
      config: shape of the model.
      dtype: of weight matrices and of the cache: float32, bfloat16 or float64.
      row_tile: see :func:`jaxdec.models.linear.linear`.
    """

    config: CrateLMConfig
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

    @property
    def num_heads(self) -> int:
        """Query heads: the subspaces."""
        return self.config.layers.num_heads

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """Return an empty contiguous cache in ``dtype``."""
        layers = self.config.layers
        return ContiguousCache.create(
            num_layers=layers.num_layers,
            batch_size=batch_size,
            capacity=capacity,
            num_kv_heads=layers.num_heads,
            head_dim=layers.subspace_dim,
            dtype=self.dtype,
        )

    def token_embeddings(self, params: Mapping[str, Any]) -> Float[Array, "V D"]:
        """The table of input embeddings."""
        return params["token_table"]

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
        config, layers = self.config, self.config.layers
        normal = nn.initializers.normal(0.02)
        table = self.param("token_table", normal, (config.vocab_size, layers.hidden_size), self.dtype)
        places = self.param("position_table", normal, (config.max_position_embeddings, layers.hidden_size), self.dtype)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        # Nodes of a draft tree may lie beyond the last position; their logits are not used.
        x = jnp.take(table, tokens, axis=0).astype(wide) + jnp.take(places, positions, axis=0, mode="clip").astype(wide)
        mask = cache.mask(tokens.shape[1], visible)
        for number in range(layers.num_layers):
            layer = CrateLayer(layers, self.dtype, self.row_tile, name=f"layer_{number}")
            inside = layer.project(x)
            cache = cache.append(number, inside, inside).observe(number, inside)
            x = layer.after_attention(x, cache.attend(number, inside, mask))
        hidden = LayerNorm(layers.norm_eps, name="final_norm")(x)
        wanted = hidden if logits_at is None else jnp.take_along_axis(hidden, logits_at[..., None], axis=1)
        return linear(wanted, table, self.row_tile), hidden, cache
