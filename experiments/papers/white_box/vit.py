"""The transformer that CRATE is compared with: a vision transformer of the same depth and width (arXiv 2010.11929)."""

import flax.linen as nn
import jax.numpy as jnp

from jaxdec.models.crate import LayerNorm
from jaxdec.models.crate_classifier import Affine, ClassifierConfig
from jaxdec.models.patches import patchify
from jaxdec.typing import Array, Float


class VisionTransformer(nn.Module):
    """Pre-norm attention with maps for queries, keys, values and output, and a feed-forward layer four times as wide."""

    config: ClassifierConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"]) -> Float[Array, "B classes"]:
        """Return logits, read from the class token."""
        config, layers = self.config, self.config.layers
        width = layers.hidden_size
        x = Affine(width, name="embed")(patchify(images, config.patch_size))
        first = self.param("class_token", nn.initializers.normal(0.02), (width,))
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (config.num_patches + 1, width))
        for layer in range(layers.num_layers):
            normed = LayerNorm(layers.norm_eps, name=f"attention_norm_{layer}")(x)
            x = x + nn.MultiHeadDotProductAttention(layers.num_heads, name=f"attention_{layer}")(normed)
            normed = LayerNorm(layers.norm_eps, name=f"mlp_norm_{layer}")(x)
            inside = nn.gelu(Affine(4 * width, name=f"up_{layer}")(normed))
            x = x + Affine(width, name=f"down_{layer}")(inside)
        return Affine(config.num_classes, name="head")(LayerNorm(layers.norm_eps, name="head_norm")(x[:, 0]))
