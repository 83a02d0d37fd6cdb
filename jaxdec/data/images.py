"""Image sets that can be had without a download of their own.

- Digits: 1797 handwritten digits of 8 x 8 pixels, shipped with scikit-learn (Alpaydin and Kaynak 1998, UCI repository).
- Fashion-MNIST: 70,000 articles of clothing of 28 x 28 pixels (Xiao et al. 2017, arXiv 1708.07747), in the idx files that
  Debian's package ``dataset-fashion-mnist`` installs.
"""

import gzip
from pathlib import Path

import numpy as np

from jaxdec.typing import Float, Int

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts its files."""

IDX_UNSIGNED_BYTES = 0x08
HOW_TO_GET = "install Debian's package dataset-fashion-mnist, or put the four files of Fashion-MNIST there"


def digits() -> tuple[Float[np.ndarray, "N 8 8 1"], Int[np.ndarray, "N"]]:
    """Handwritten digits.

    Returns:
      Images, float32 in [0, 1], and labels, int32 from 0 to 9, in the order of scikit-learn.
    """
    from sklearn.datasets import load_digits  # takes a second

    data = load_digits()
    images = (np.asarray(data.images) / 16).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    return images[..., None], np.asarray(data.target).astype(np.int32)  # pyright: ignore[reportAttributeAccessIssue]


def fashion_mnist(
    folder: Path | str = FASHION_MNIST_FOLDER, split: str = "train"
) -> tuple[Float[np.ndarray, "N H W 1"], Int[np.ndarray, "N"]]:
    """Articles of clothing.

    Args:
      folder: that holds ``train-images-idx3-ubyte.gz`` and its three companions, compressed or not.
      split: "train", 60,000 images, or "test", 10,000.

    Returns:
      Images, float32 in [0, 1], and labels, int32 from 0 to 9.

    Raises:
      FileNotFoundError: a file that is not there.
      ValueError: another split, or a file that is no idx file of unsigned bytes.
    """
    prefixes = {"train": "train", "test": "t10k"}
    if split not in prefixes:
        raise ValueError(f"split must be one of {', '.join(prefixes)}, got {split!r}")
    images = read_idx(_found(Path(folder), f"{prefixes[split]}-images-idx3-ubyte"))
    labels = read_idx(_found(Path(folder), f"{prefixes[split]}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"folder {folder}: {split} images have shape {images.shape}, labels {labels.shape}")
    return images.astype(np.float32)[..., None] / np.float32(255), labels.astype(np.int32)


def _found(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder / name}.gz: no such file; {HOW_TO_GET}")


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes: two zero bytes, the type, the number of axes, their lengths (big-endian), the data.

    Raises:
      ValueError: another kind of file, or one that is cut short.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is cut short or corrupt: {error}") from None
    if len(content) < 4 or content[:3] != bytes([0, 0, IDX_UNSIGNED_BYTES]):
        raise ValueError(f"{path} is no idx file of unsigned bytes: it begins with {content[:4].hex()}")
    begin = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:begin], ">u4").tolist())
    if len(content) - begin != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} should hold {shape} bytes behind its header, and holds {len(content) - begin}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
