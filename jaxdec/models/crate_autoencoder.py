"""CRATE-MAE: a masked auto-encoder whose decoder runs the encoder's layers backwards in time.

Pai et al. 2024, "Masked Completion via Structured Diffusion with White-Box Transformers" (arXiv 2404.02446); masking as in
He et al. 2022 (arXiv 2111.06377). Encoder layers are CRATE's, with ``lambda = 0.5``. A decoder layer undoes the coding by a
linear map and then *expands* what compression contracted:

    Y = LN(Z) A^T                      Z <- Y - MSSA(LN(Y))

Unlike in other masked auto-encoders the encoder sees every place: mask tokens stand in for masked patches from the beginning.
The loss is the mean squared error of pixels in masked patches.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.models.crate import SIZES, CrateConfig, CrateLayer, LayerNorm, SubspaceAttention, dictionary_init
from jaxdec.models.crate_classifier import Affine
from jaxdec.models.linear import linear
from jaxdec.models.patches import grid, patchify, sincos_positions
from jaxdec.typing import Array, Bool, Float, Key

LAMBDA = 0.5
MASK_RATIO = 0.75


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of a :class:`CrateAutoencoder`: as many decoder layers as encoder layers, all of one width.

    Attributes:
      layers: shape of the encoder's layers, which the decoder's attention shares.
      image_size: height and width.
      patch_size: height and width.
      channels: of an image.
      final_norm_eps: of the norms behind encoder and decoder.
    """

    layers: CrateConfig
    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    channels: int = 3
    final_norm_eps: float = 1e-6

    def __post_init__(self):
        grid(self.image_size, self.patch_size)
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.layers.overcomplete:
            raise ValueError("layers.overcomplete must be False: the decoder's layers are the inverse of CRATE's own")

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch."""
        return self.patch_size[0] * self.patch_size[1] * self.channels


def published(size: str, **changes) -> AutoencoderConfig:
    """The published auto-encoder of a size (tiny to large).

    Raises:
      ValueError: an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
    return AutoencoderConfig(dataclasses.replace(SIZES[size], threshold=LAMBDA), **changes)


class Reconstruction(struct.PyTreeNode):
    """What the auto-encoder returns.

    Attributes:
      latent: the encoder's tokens behind its norm, the class token first. (The decoder begins from these.)
      patches: predicted pixels of every patch, in the order of :func:`jaxdec.models.patches.patchify`.
    """

    latent: Float[Array, "B N1 D"]
    patches: Float[Array, "B N P"]


class DecoderLayer(nn.Module):
    """See the module: a linear map in place of coding, and a step against the direction of compression."""

    config: CrateConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Run the layer."""
        width = self.config.hidden_size
        synthesis = self.param("synthesis", dictionary_init, (width, width))
        y = linear(LayerNorm(self.config.norm_eps, name="synthesis_norm")(x), synthesis)
        normed = LayerNorm(self.config.norm_eps, name="attention_norm")(y)
        return y - SubspaceAttention(self.config, name="attention")(normed)


class CrateAutoencoder(nn.Module):
    """See the module."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"], masked: Bool[Array, "B N"] | None = None) -> Reconstruction:
        """Predict the pixels of all patches from those that are not masked.

        Args:
          images: of the config's shape.
          masked: patches that are hidden, none by default.

        Raises:
          ValueError: images of another shape than the config's.
        """
        config, layers = self.config, self.config.layers
        if images.shape[1:] != (*config.image_size, config.channels):
            wanted = (*config.image_size, config.channels)
            raise ValueError(f"images must have shape [B, {', '.join(map(str, wanted))}], got {list(images.shape)}")
        x = Affine(layers.hidden_size, name="embed")(patchify(images, config.patch_size))
        normal, width = nn.initializers.normal(0.02), layers.hidden_size
        hidden = self.param("mask_token", normal, (width,))
        if masked is not None:
            x = jnp.where(masked[..., None], hidden, x)
        first = jnp.broadcast_to(self.param("class_token", normal, (width,)), (x.shape[0], 1, width))
        places = sincos_positions(width, *grid(config.image_size, config.patch_size))
        x = jnp.concatenate([first, x], axis=1) + places
        for layer in range(layers.num_layers):
            x = CrateLayer(layers, name=f"encoder_{layer}")(x)
        x = latent = LayerNorm(config.final_norm_eps, name="encoder_norm")(x)
        for layer in range(layers.num_layers):
            x = DecoderLayer(layers, name=f"decoder_{layer}")(x)
        x = LayerNorm(config.final_norm_eps, name="decoder_norm")(x)
        return Reconstruction(latent, Affine(config.patch_dim, name="pixels")(x)[:, 1:])


def random_mask(key: Key[Array, ""], batch: int, num_patches: int, ratio: float = MASK_RATIO) -> Bool[Array, "B N"]:
    """Hide a share of the patches of every image: all but ``int(N (1 - ratio))`` of them, drawn without replacement.

    Raises:
      ValueError: ``ratio`` outside (0, 1), or one that hides all patches or none.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be in (0, 1), got {ratio}")
    kept = int(num_patches * (1 - ratio))
    if kept in (0, num_patches):
        raise ValueError(
            f"ratio {ratio} of {num_patches} patches hides {num_patches - kept}; some must be seen, and some not"
        )
    order = jax.random.uniform(key, (batch, num_patches)).argsort(axis=1).argsort(axis=1)
    return order >= kept


def reconstruction_loss(
    images: Float[Array, "B Y X C"],
    patches: Float[Array, "B N P"],
    masked: Bool[Array, "B N"],
    patch_size: tuple[int, int],
    normalise: bool = False,
) -> Float[Array, ""]:
    """Mean squared error of the pixels of masked patches.

    Args:
      images: what was to be predicted.
      patches: predictions.
      masked: patches that count.
      patch_size: height and width.
      normalise: predict patches scaled to zero mean and unit (sample) variance each.
    """
    target = patchify(images, patch_size)
    if normalise:
        mean, variance = target.mean(-1, keepdims=True), target.var(-1, keepdims=True, ddof=1)
        target = (target - mean) * jax.lax.rsqrt(variance + 1e-6)
    error = jnp.square(patches - target).mean(-1)
    return (error * masked).sum() / masked.sum()
