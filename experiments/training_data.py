"""The data sets that a training config can name.

    config.data = {"name": "digits", "test_fraction": 0.2}

Each is a function from the fields to ``(training source, test source)``; all can be read without a network. Unknown fields are
refused.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.text_sources import installed_texts, text_files
from experiments.training.fields import choose
from jaxdec import data
from jaxdec.data.images import FASHION_MNIST_FOLDER
from jaxdec.data.sources import Example
from jaxdec.data.text import joined_tokens
from jaxdec.tokenizers import tokenizer_from_folder

Sources = tuple[data.Source, data.Source]

FIELDS: dict[str, dict[str, Any]] = {
    "digits": {"test_fraction": 0.2, "seed": 0},
    "fashion_mnist": {"folder": str(FASHION_MNIST_FOLDER)},
    "text": {"files": (), "tokenizer": "bytes", "length": 128, "limit": 2_000_000, "test_fraction": 0.05},
    "tfds": {"dataset": "mnist", "train": "train", "test": "test", "folder": "", "image": "image", "label": "label"},
}
"""Data sets, their fields and what these are by default."""


def digits(fields: Mapping[str, Any]) -> Sources:
    """``image`` float32 [8, 8, 1] and ``label``; a share of every digit is for the test."""
    images, labels = data.digits()
    source = data.ArraySource({"image": images, "label": labels})
    train, test = data.stratified_split(labels, fields["test_fraction"], fields["seed"])
    return source.subset(train), source.subset(test)


def fashion_mnist(fields: Mapping[str, Any]) -> Sources:
    """``image`` float32 [28, 28, 1] and ``label``; the set's own test part."""

    def part(split: str) -> data.ArraySource:
        images, labels = data.fashion_mnist(fields["folder"], split)
        return data.ArraySource({"image": images, "label": labels})

    return part("train"), part("test")


def text(fields: Mapping[str, Any]) -> Sources:
    """``tokens`` int32 [length + 1]: of the files, else of what is installed with Python; the last ones are for the test.

    ``tokenizer`` is "bytes", or the folder of a Hugging Face tokenizer.

    Raises:
      ValueError: too few tokens, a pattern that no file matches, a share out of range.
    """
    fraction = fields["test_fraction"]
    if not 0 < fraction < 1:
        raise ValueError(f"data text: test_fraction must be in (0, 1), got {fraction}")
    if fields["tokenizer"] == "bytes":
        encode = data.byte_tokens
    else:
        encode = functools.partial(tokenizer_from_folder(Path(fields["tokenizer"])).encode, add_bos=False)

    sources = text_files(fields["files"]) if fields["files"] else installed_texts()
    texts = (f"{entry.text}\n" for source in sources for entry in source.texts)
    tokens = joined_tokens(texts, encode, limit=fields["limit"])
    kept = tokens.shape[0] - round(fraction * tokens.shape[0])
    return data.TokenWindows(tokens[:kept], fields["length"]), data.TokenWindows(tokens[kept:], fields["length"])


def tfds(fields: Mapping[str, Any]) -> Sources:
    """``image`` and ``label`` of a set of TensorFlow Datasets, where that is installed; see :mod:`jaxdec.data.tfds`."""

    def renamed(example: Example) -> Example:
        for field in ("image", "label"):
            if fields[field] not in example:
                known = ", ".join(sorted(example))
                raise ValueError(f"data tfds: {fields['dataset']} has no numbers named {fields[field]!r}, only {known}")
        return {"image": example[fields["image"]], "label": np.int32(example[fields["label"]])}

    def part(split: str) -> data.MappedSource:
        return data.MappedSource(data.tfds_source(fields["dataset"], split, fields["folder"] or None), renamed)

    return part(fields["train"]), part(fields["test"])


SETS: dict[str, Callable[[Mapping[str, Any]], Sources]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "text": text,
    "tfds": tfds,
}


def make_sources(config: Mapping[str, Any]) -> Sources:
    """The training and the test source that ``config`` names.

    Raises:
      ValueError: an unknown name or field, or a value of another type.
      OSError: files that are not there.
      ModuleNotFoundError: a package that is not installed.
    """
    name, fields = choose("data", FIELDS, config)
    return SETS[name](fields)
