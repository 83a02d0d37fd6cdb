"""Several random views of every image, as self-supervised methods compare them.

A pipeline is a tuple of transforms, made in turn. A view is a pure function of the key, the image's place in the batch and the
view's number: views do not change with the batch size or with how many are drawn.

    views = make_views(images, jax.random.key(0), 4, CIFAR)     # [4 B, H, W, C], the views of an image adjacent

Presets: ``DIGITS`` for 8 x 8 digits; ``CIFAR`` as SimCLR and MMCR use it (Chen et al. 2020, arXiv 2002.05709; Yerxa et al.
2023, arXiv 2303.03307); ``IMAGENET``, the asymmetric pair of BYOL and Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230),
whose halves MMCR alternates over the views. Means and deviations of a data set are not taken off here: tests need that, too.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.data.image_transforms import (
    ColorJitter,
    Flip,
    Gain,
    GaussianBlur,
    Greyscale,
    Noise,
    PixelDrop,
    ResizedCrop,
    Shift,
    Solarise,
    Transform,
)
from jaxdec.typing import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Transforms in the order in which they are made."""

    transforms: tuple[Transform, ...]

    def __call__(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """One view of one image."""
        for number, transform in enumerate(self.transforms):
            image = transform(jax.random.fold_in(key, number), image)
        return image


@dataclasses.dataclass(frozen=True)
class Alternated:
    """Two pipelines in turns: views 0, 2, 4, ... by ``even`` and 1, 3, 5, ... by ``odd``."""

    even: Pipeline
    odd: Pipeline


def make_views(
    images: Float[Array, "B H W C"], key: Key[Array, ""], num_views: int, pipeline: Pipeline | Alternated
) -> Float[Array, "views H W C"]:
    """Draw ``num_views`` views of every image.

    Args:
      images: floating point, values in [0, 1].
      key: of all draws.
      num_views: ``V``, at least 1; even for :class:`Alternated`.
      pipeline: how views are made.

    Returns:
      ``[B V, H, W, C]``: view ``v`` of image ``b`` is row ``b V + v``.

    Raises:
      ValueError: whole-number images, or a number of views out of range.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating point with values in [0, 1], got {images.dtype}")
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if isinstance(pipeline, Alternated) and num_views % 2:
        raise ValueError(f"num_views must be even where two pipelines take turns, got {num_views}")
    numbers = jnp.arange(images.shape[0])

    def drawn(pipeline: Pipeline, chosen: Array) -> Array:
        def one_view(image: Array, image_key: Array, view: Array) -> Array:
            return pipeline(jax.random.fold_in(image_key, view), image)

        image_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        return jax.vmap(jax.vmap(one_view, in_axes=(None, None, 0)), in_axes=(0, 0, None))(images, image_keys, chosen)

    if isinstance(pipeline, Alternated):
        even, odd = (
            drawn(half, jnp.arange(first, num_views, 2)) for first, half in enumerate((pipeline.even, pipeline.odd))
        )
        views = jnp.stack([even, odd], axis=2)
    else:
        views = drawn(pipeline, jnp.arange(num_views))
    return views.reshape(-1, *images.shape[1:])


def _barlow_twins(*last: Transform) -> Pipeline:
    jitter = ColorJitter(0.4, 0.4, 0.2, 0.1, probability=0.8)
    first = (ResizedCrop(method="cubic"), Flip(probability=0.5), jitter, Greyscale(probability=0.2))
    return Pipeline((*first, *last))


DIGITS = Pipeline((Shift(1), Gain(0.6, 1.2), Noise(0.15), PixelDrop(0.15)))
CIFAR = Pipeline(
    (
        ResizedCrop(),
        Flip(probability=0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        Greyscale(probability=0.2),
    )
)
IMAGENET = Alternated(
    even=_barlow_twins(GaussianBlur()),
    odd=_barlow_twins(GaussianBlur(probability=0.1), Solarise(probability=0.2)),
)
