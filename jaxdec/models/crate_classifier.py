"""CRATE classifiers of images: patches, a class token, learnt positions, CRATE layers, a linear head.

Yu et al. 2023 (arXiv 2306.01129) and, with ``overcomplete`` layers and its plain stem, CRATE-alpha (arXiv 2405.20299):

    CRATE          tokens = LN(Linear(LN(patches)))       logits = Linear(LN(pooled))
    CRATE-alpha    tokens = Linear(patches)               logits = Linear(LN(tokens)[class])
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxdec.models.crate import SIZES, CrateConfig, CrateLayer, LayerNorm
from jaxdec.models.linear import linear
from jaxdec.models.patches import grid, patchify
from jaxdec.typing import Array, Float

POOLS = ("class", "mean")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a :class:`CrateClassifier`.

    Attributes:
      layers: shape of the layers.
      image_size: height and width.
      patch_size: height and width.
      channels: of an image.
      num_classes: logits.
      pool: ``"class"``: the class token is read; ``"mean"``: the mean over all tokens.
    """

    layers: CrateConfig
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    num_classes: int = 1000
    pool: str = "class"

    def __post_init__(self):
        grid(self.image_size, self.patch_size)
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {self.pool!r}")

    @property
    def num_patches(self) -> int:
        """Tokens beside the class token."""
        rows, columns = grid(self.image_size, self.patch_size)
        return rows * columns


def published(size: str, **changes) -> ClassifierConfig:
    """The published classifier of a size for 224 x 224 images in patches of 16 x 16; ``changes`` set other fields.

    Raises:
      ValueError: an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
    return ClassifierConfig(SIZES[size], **changes)


class Affine(nn.Module):
    """``x W^T + b``, ``W`` stored (out, in)."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*rows I"]) -> Float[Array, "*rows O"]:
        """Apply the map to the last axis."""
        init = nn.initializers.xavier_uniform(in_axis=1, out_axis=0)
        weight = self.param("weight", init, (self.features, x.shape[-1]))
        return linear(x, weight) + self.param("bias", nn.initializers.zeros, (self.features,))


class CrateEncoder(nn.Module):
    """From images to the last layer's tokens, the class token first."""

    config: ClassifierConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"]) -> Float[Array, "B N D"]:
        """Return the tokens. With ``mutable=["intermediates"]`` the layers' notes come too.

        Raises:
          ValueError: images of another shape than the config's.
        """
        config, layers = self.config, self.config.layers
        if images.shape[1:] != (*config.image_size, config.channels):
            wanted = (*config.image_size, config.channels)
            raise ValueError(f"images must have shape [B, {', '.join(map(str, wanted))}], got {list(images.shape)}")
        x = patchify(images, config.patch_size)
        if layers.overcomplete:
            x = Affine(layers.hidden_size, name="embed")(x)
        else:
            x = Affine(layers.hidden_size, name="embed")(LayerNorm(layers.norm_eps, name="patch_norm")(x))
            x = LayerNorm(layers.norm_eps, name="embed_norm")(x)
        normal = nn.initializers.normal(0.02 if layers.overcomplete else 1.0)
        first = self.param("class_token", normal, (layers.hidden_size,))
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, layers.hidden_size)), x], axis=1)
        x = x + self.param("positions", normal, (config.num_patches + 1, layers.hidden_size))
        for layer in range(layers.num_layers):
            x = CrateLayer(layers, name=f"layer_{layer}")(x)
        return x


class CrateClassifier(nn.Module):
    """See the module."""

    config: ClassifierConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"]) -> Float[Array, "B classes"]:
        """Return logits; see :class:`CrateEncoder`."""
        config = self.config
        tokens = CrateEncoder(config, name="encoder")(images)
        pooled = tokens[:, 0] if config.pool == "class" else tokens.mean(1)
        return Affine(config.num_classes, name="head")(LayerNorm(config.layers.norm_eps, name="head_norm")(pooled))
