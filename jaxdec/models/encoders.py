"""Image encoders and projectors of self-supervised learning.

- :class:`MLPEncoder` and :class:`ConvEncoder` for small images.
- :class:`ResNet`: He et al. 2016 (arXiv 1512.03385), bottleneck blocks with the stride in their 3 x 3 convolution. For small
  images the stem is one 3 x 3 convolution without pooling (Chen et al. 2020, arXiv 2002.05709, appendix B.9); the last scale of
  every block may begin at zero, so that a block begins as its shortcut (Goyal et al. 2017, arXiv 1706.02677).
- :class:`Projector`: linear maps without bias, batch norm and ReLU between them (Zbontar et al. 2021, arXiv 2103.03230).

All take ``train``: batch norm then uses the statistics of the batch and updates the running ones in "batch_stats". Those of
all views of a batch mix, as they pass together. Under ``jit`` with a sharded batch they are statistics of the whole batch.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from jaxdec.typing import Array, Float

RESNET50 = (3, 4, 6, 3)
"""Blocks per stage."""
HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class MLPEncoder(nn.Module):
    """Linear maps with ReLU behind each, of the pixels in one row.

    Attributes:
      widths: outputs of each map.
    """

    widths: tuple[int, ...] = (128, 128)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B D"]:
        """Features; ``train`` changes nothing."""
        check_widths("widths", self.widths)
        x = images.reshape(images.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return x


class ConvEncoder(nn.Module):
    """3 x 3 convolutions with batch norm and ReLU, each but the first with stride 2, and the mean over places.

    Attributes:
      widths: channels of each convolution.
    """

    widths: tuple[int, ...] = (32, 64, 128)

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B D"]:
        """Features."""
        check_widths("widths", self.widths)
        x = images
        for number, width in enumerate(self.widths):
            x = convolution(width, 3, stride=2 if number else 1)(x)
            x = nn.relu(BatchNorm(use_running_average=not train)(x))
        return x.mean((1, 2))


class Bottleneck(nn.Module):
    """``relu(shortcut(x) + f(x))`` with f of 1 x 1, 3 x 3 and 1 x 1 convolutions.

    Attributes:
      width: channels within; four times as many leave.
      stride: of the 3 x 3 convolution and the shortcut.
      zero_init_residual: ``f`` begins at zero.
    """

    width: int
    stride: int = 1
    zero_init_residual: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w F"]:
        """Apply the block."""
        norm = functools.partial(BatchNorm, use_running_average=not train)
        scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = nn.relu(norm()(convolution(self.width, 1)(x)))
        y = nn.relu(norm()(convolution(self.width, 3, self.stride)(y)))
        y = norm(scale_init=scale)(convolution(4 * self.width, 1)(y))
        if x.shape != y.shape:
            x = norm(name="shortcut_norm")(convolution(4 * self.width, 1, self.stride, name="shortcut")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Residual network without its classifier; ``D = 8 * 4 * width`` for four stages.

    Attributes:
      stages: blocks of each stage; every stage doubles the channels, all but the first halve height and width.
      width: channels of the stem.
      small_images: a stem of one 3 x 3 convolution of stride 1 and no pooling, for CIFAR and the like.
      zero_init_residual: see :class:`Bottleneck`.
    """

    stages: tuple[int, ...] = RESNET50
    width: int = 64
    small_images: bool = False
    zero_init_residual: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B D"]:
        """Features: the mean over places."""
        check_widths("stages", self.stages)
        x = convolution(self.width, 3)(images) if self.small_images else convolution(self.width, 7, 2)(images)
        x = nn.relu(BatchNorm(use_running_average=not train)(x))
        if not self.small_images:
            padding: Any = ((1, 1), (1, 1))  # flax declares a text, and takes pairs, too
            x = nn.max_pool(x, (3, 3), (2, 2), padding)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(self.width * 2**stage, stride, self.zero_init_residual)(x, train)
        return x.mean((1, 2))


class Projector(nn.Module):
    """Linear maps without bias; batch norm and ReLU behind all but the last.

    Attributes:
      widths: outputs of each map, the last that of the embedding.
    """

    widths: tuple[int, ...] = (8192, 8192, 512)

    @nn.compact
    def __call__(self, features: Float[Array, "B D"], train: bool = False) -> Float[Array, "B E"]:
        """Embeddings."""
        check_widths("widths", self.widths)
        x = features
        for width in self.widths[:-1]:
            x = nn.relu(BatchNorm(use_running_average=not train)(nn.Dense(width, use_bias=False)(x)))
        return nn.Dense(self.widths[-1], use_bias=False)(x)


class EncoderProjector(nn.Module):
    """An encoder, whose features are used later, and a projector, whose embeddings are trained.

    Attributes:
      encoder: ``(images, train) -> features [B, D]``.
      projector: ``(features, train) -> embeddings [B, E]``.
    """

    encoder: Any
    projector: Any

    def __call__(
        self, images: Float[Array, "B H W C"], train: bool = False
    ) -> tuple[Float[Array, "B D"], Float[Array, "B E"]]:
        """Features and embeddings."""
        features = self.encoder(images, train)
        return features, self.projector(features, train)


def convolution(width: int, size: int, stride: int = 1, name: str | None = None) -> nn.Conv:
    """A convolution without bias, padded by half its size on every side."""
    half = size // 2
    padding = ((half, half), (half, half))
    return nn.Conv(width, (size, size), stride, padding, use_bias=False, kernel_init=HE, name=name)


def check_widths(name: str, widths: Sequence[int]) -> None:
    """Raise ``ValueError`` unless there is at least one width and all are positive."""
    if not widths or min(widths) < 1:
        raise ValueError(f"{name} must be at least one positive number, got {tuple(widths)}")
