"""Images as sequences of patches, and where a patch lies."""

import numpy as np

from jaxdec.typing import Array, Float


def patchify(images: Float[Array, "B Y X C"], patch_size: tuple[int, int]) -> Float[Array, "B N P"]:
    """Cut images into patches, row by row; a patch is flattened by row, column, channel.

    Raises:
      ValueError: a side of the image that is no multiple of the patch's.
    """
    batch, height, width, channels = images.shape
    rows, columns = grid((height, width), patch_size)
    down, across = patch_size
    cut = images.reshape(batch, rows, down, columns, across, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, down * across * channels)


def unpatchify(
    patches: Float[Array, "B N P"], image_size: tuple[int, int], patch_size: tuple[int, int]
) -> Float[Array, "B Y X C"]:
    """Put patches together again: the inverse of :func:`patchify`.

    Raises:
      ValueError: a side of the image that is no multiple of the patch's, or a number of patches that is not the image's.
    """
    rows, columns = grid(image_size, patch_size)
    batch, number, width = patches.shape
    down, across = patch_size
    if number != rows * columns or width % (down * across):
        raise ValueError(
            f"patches must be {rows * columns} of a multiple of {down * across} numbers for an image of {image_size} and "
            f"patches of {patch_size}; got {number} of {width}"
        )
    cut = patches.reshape(batch, rows, columns, down, across, -1)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * down, columns * across, -1)


def grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Patches down and across.

    Raises:
      ValueError: a side of the image that is no multiple of the patch's.
    """
    if min(patch_size) < 1 or any(side < 1 or side % part for side, part in zip(image_size, patch_size)):
        raise ValueError(
            f"image_size {image_size} must be a positive multiple of patch_size {patch_size} in both directions"
        )
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def sincos_positions(width: int, rows: int, columns: int, class_token: bool = True) -> Float[np.ndarray, "N D"]:
    """Fixed sine-cosine embeddings of a grid (He et al. 2022, arXiv 2111.06377; MoCo v3), zeros for the class token.

    The first half of the channels tells the column, the second the row; each is sines, then cosines, of frequencies
    ``10000 ** -(i / (width / 4))``.

    Args:
      width: channels, a multiple of four.
      rows: patches down.
      columns: patches across.
      class_token: whether a row of zeros comes first.

    Raises:
      ValueError: ``width`` that is no multiple of four.
    """
    if width < 4 or width % 4:
        raise ValueError(f"width must be a positive multiple of 4, got {width}")
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))

    def along(places):
        angles = places.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    table = np.concatenate([along(column), along(row)], axis=1)
    return np.concatenate([np.zeros((int(class_token), width)), table]).astype(np.float32)
