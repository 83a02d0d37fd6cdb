"""TensorFlow Datasets as a source, without TensorFlow.

``tfds.data_source`` reads ArrayRecord files at any place and needs no TensorFlow for data that are prepared already. What it
cannot do without is preparing most of the built-in sets (their downloads are unpacked by TensorFlow) and decoding images of
sets that store them encoded: prepare such a set once where TensorFlow is installed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxdec.data.sources import Example, MappedSource


def tfds_source(name: str, split: str, folder: Path | str | None = None) -> MappedSource:
    """A data set by its name.

    Args:
      name: such as "mnist" or "imagenet2012:5.1.0".
      split: such as "train" or "test[:10%]".
      folder: where prepared sets lie; by default TensorFlow Datasets' own, ``~/tensorflow_datasets``.

    Returns:
      A source with the set's own field names; see :func:`as_arrays`.

    Raises:
      ModuleNotFoundError: tensorflow-datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"data set {name!r} is read by tensorflow-datasets: pip install 'jaxdec[data]' ({error})"
        ) from None
    return MappedSource(tfds.data_source(name, split=split, data_dir=folder), as_arrays)


def as_arrays(example: dict[str, Any]) -> Example:
    """Numbers of an example: bytes of pixels become float32 in [0, 1], whole numbers int32; texts are left out."""
    arrays = {}
    for field, value in example.items():
        array = np.asarray(value)
        if array.dtype == np.uint8:
            arrays[field] = array.astype(np.float32) / np.float32(255)
        elif np.issubdtype(array.dtype, np.integer):
            arrays[field] = array.astype(np.int32)
        elif np.issubdtype(array.dtype, np.floating) or array.dtype == bool:
            arrays[field] = array
    return arrays
