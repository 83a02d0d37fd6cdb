"""Random changes of images: what self-supervised learning calls augmentations.

Each is a frozen dataclass that holds its strength and the probability with which it is made, and is called with a key and one
image ``[H, W, C]`` of values in [0, 1]. Pure functions, to be mapped over a batch (:func:`jaxdec.data.views.make_views`).

Strengths mean what they mean in torchvision (crop, flip, jitter, greyscale) and in Barlow Twins (blur, solarise; Zbontar et al.
2021, arXiv 2103.03230). :class:`Shift`, :class:`Gain`, :class:`Noise` and :class:`PixelDrop` suit small grey images.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float, Key

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue."""
TRIES = 10
"""Boxes drawn for a crop, of which the first that fits is taken."""


@dataclasses.dataclass(frozen=True)
class Transform(abc.ABC):
    """A change that is made with some probability.

    Attributes:
      probability: that the image is changed, else it stays as it is.
    """

    probability: float | int = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    def __call__(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """The image, changed or not."""
        decide, draw = jax.random.split(key)
        changed = self.change(draw, image)
        if self.probability == 1:
            return changed
        return jnp.where(jax.random.bernoulli(decide, self.probability), changed, image)

    @abc.abstractmethod
    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """The image, changed."""


@dataclasses.dataclass(frozen=True)
class Shift(Transform):
    """Move by whole pixels, at most ``pixels`` each way, filling with zeros."""

    pixels: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.pixels < 0:
            raise ValueError(f"pixels must be at least 0, got {self.pixels}")

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Shift."""
        padded = jnp.pad(image, ((self.pixels, self.pixels), (self.pixels, self.pixels), (0, 0)))
        top, left = jax.random.randint(key, (2,), 0, 2 * self.pixels + 1)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


@dataclasses.dataclass(frozen=True)
class ResizedCrop(Transform):
    """Cut out a box and resize it to the size of the image.

    Boxes have whole pixels. If none of ten drawn boxes fits into the image, it stays whole. Pixels next to the box take part in
    the interpolation at its edge.

    Attributes:
      scale: smallest and largest area of the box, of that of the image.
      ratio: smallest and largest width over height; uniform in its logarithm.
      method: ``"linear"`` or ``"cubic"``, with antialiasing where the box is made smaller.
    """

    scale: tuple[float | int, float | int] = (0.08, 1.0)
    ratio: tuple[float | int, float | int] = (3 / 4, 4 / 3)
    method: str = "linear"

    def __post_init__(self):
        super().__post_init__()
        check_range("scale", self.scale, 0, 1, open_below=True)
        check_range("ratio", self.ratio, 0, math.inf, open_below=True)
        if self.method not in ("linear", "cubic"):
            raise ValueError(f"method must be linear or cubic, got {self.method!r}")

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Crop and resize."""
        whole = jnp.asarray(image.shape[:2], jnp.float32)
        for_area, for_ratio, for_place = jax.random.split(key, 3)
        area = jax.random.uniform(for_area, (TRIES,), minval=self.scale[0], maxval=self.scale[1]) * whole.prod()
        low, high = map(math.log, self.ratio)
        ratio = jnp.exp(jax.random.uniform(for_ratio, (TRIES,), minval=low, maxval=high))
        boxes = jnp.round(jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1))
        fits = ((boxes >= 1) & (boxes <= whole)).all(1)
        box = jnp.where(fits.any(), boxes[jnp.argmax(fits)], whole)
        corner = jnp.floor(jax.random.uniform(for_place, (2,)) * (whole - box + 1))
        zoom = whole / box
        resized = jax.image.scale_and_translate(image, image.shape, (0, 1), zoom, -corner * zoom, self.method)
        return jnp.clip(resized, 0, 1)  # cubic interpolation overshoots


@dataclasses.dataclass(frozen=True)
class Flip(Transform):
    """Left and right in turn."""

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Flip."""
        return image[:, ::-1]


@dataclasses.dataclass(frozen=True)
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in a random order.

    Attributes:
      brightness: the image is multiplied by a factor within ``1 - brightness`` and ``1 + brightness``, at least 0.
      contrast: the difference from the mean of the grey image is multiplied by such a factor.
      saturation: likewise the difference from the grey image.
      hue: largest turn of the colour circle, at most half of one.
    """

    brightness: float | int = 0.4
    contrast: float | int = 0.4
    saturation: float | int = 0.4
    hue: float | int = 0.1

    def __post_init__(self):
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation", "hue"):
            value, most = getattr(self, name), 0.5 if name == "hue" else math.inf
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be in [0, {most:g}], got {value}")

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Jitter."""
        for_order, *keys = jax.random.split(key, 5)

        def factor(key: Array, strength: float | int) -> Array:
            return jax.random.uniform(key, (), image.dtype, max(0.0, 1 - strength), 1 + strength)

        strengths = (self.brightness, self.contrast, self.saturation)
        bright, contrasting, saturated = map(factor, keys[:3], strengths)
        turn = jax.random.uniform(keys[3], (), image.dtype, -self.hue, self.hue)
        changes = [
            lambda x: _blend(x, 0.0, bright),
            lambda x: _blend(x, luminance(x).mean(), contrasting),
            lambda x: _blend(x, luminance(x), saturated),
            lambda x: turn_hue(x, turn),
        ]
        changes = [change for change, strength in zip(changes, (*strengths, self.hue)) if strength > 0]
        for number in jax.random.permutation(for_order, len(changes)):
            image = jax.lax.switch(number, changes, image)
        return image


@dataclasses.dataclass(frozen=True)
class Greyscale(Transform):
    """Put the luminance in every channel."""

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Take the colours away."""
        return jnp.broadcast_to(luminance(image), image.shape)


@dataclasses.dataclass(frozen=True)
class GaussianBlur(Transform):
    """Blur with a Gaussian of random width, its weights normalised anew where the image ends.

    Attributes:
      sigma: smallest and largest standard deviation in pixels.
    """

    sigma: tuple[float | int, float | int] = (0.1, 2.0)

    def __post_init__(self):
        super().__post_init__()
        check_range("sigma", self.sigma, 0, math.inf, open_below=True)

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Blur."""
        sigma = jax.random.uniform(key, minval=self.sigma[0], maxval=self.sigma[1])

        def weights(size: int) -> Array:
            distance = jnp.arange(size)[:, None] - jnp.arange(size)
            return jax.nn.softmax(-0.5 * (distance / sigma) ** 2, axis=-1).astype(image.dtype)

        return jnp.einsum("ih,hwc,jw->ijc", weights(image.shape[0]), image, weights(image.shape[1]))


@dataclasses.dataclass(frozen=True)
class Solarise(Transform):
    """Turn values from ``threshold`` on into their complement ``1 - x``."""

    threshold: float | int = 0.5

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Solarise."""
        return jnp.where(image < self.threshold, image, 1 - image)


@dataclasses.dataclass(frozen=True)
class Gain(Transform):
    """Multiply by a factor between ``low`` and ``high``; values may leave [0, 1]."""

    low: float | int = 0.6
    high: float | int = 1.2

    def __post_init__(self):
        super().__post_init__()
        check_range("(low, high)", (self.low, self.high), 0, math.inf)

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Amplify."""
        return image * jax.random.uniform(key, (), image.dtype, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Noise(Transform):
    """Add Gaussian noise of standard deviation ``scale`` to every value; values may leave [0, 1]."""

    scale: float | int = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"scale must be at least 0 and finite, got {self.scale}")

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Add noise."""
        return image + self.scale * jax.random.normal(key, image.shape, image.dtype)


@dataclasses.dataclass(frozen=True)
class PixelDrop(Transform):
    """Set a share of the pixels to zero, all channels of a pixel together."""

    share: float | int = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], got {self.share}")

    def change(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """Drop."""
        return jnp.where(jax.random.bernoulli(key, self.share, (*image.shape[:2], 1)), 0, image)


def luminance(image: Float[Array, "H W C"]) -> Float[Array, "H W 1"]:
    """Grey values of an image of one channel or of red, green and blue.

    Raises:
      ValueError: another number of channels.
    """
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels for a change of colour, got {channels}")
    return image if channels == 1 else image @ jnp.asarray(LUMA, image.dtype)[:, None]


def turn_hue(image: Float[Array, "H W C"], turn: Float[Array, ""]) -> Float[Array, "H W C"]:
    """Turn the hue by ``turn`` of a circle, value and chroma kept (HSV; Smith 1978). A grey image stays."""
    if image.shape[-1] == 1:
        return image
    largest = image.max(-1)
    chroma = largest - image.min(-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    red, green, blue = jnp.moveaxis(image, -1, 0)
    sextant = jnp.where(
        largest == red,
        (green - blue) / divisor,
        jnp.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    place = (jnp.array([5, 3, 1]) + sextant[..., None] + 6 * turn) % 6
    return largest[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def check_range(
    name: str, bounds: Sequence[float | int], least: float | int, most: float | int, *, open_below: bool = False
) -> None:
    """Raise ``ValueError`` unless ``least <= low <= high <= most`` (``least < low`` if open) and both are finite."""
    low, high = bounds
    inside = (least < low if open_below else least <= low) and low <= high <= most and math.isfinite(high)
    if not inside:
        raise ValueError(
            f"{name} must be two numbers, the smaller first, {'above' if open_below else 'from'} {least:g} to {most:g}; "
            f"got {bounds}"
        )


def _blend(image: Array, other: Array | float, factor: Array) -> Array:
    return jnp.clip(other + factor * (image - other), 0, 1)
