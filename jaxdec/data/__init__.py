"""Data: sources of examples that can be read at any place, and batches that are a function of the step."""

from jaxdec.data.batches import Batches, InOrder, batches
from jaxdec.data.images import digits, fashion_mnist
from jaxdec.data.sources import ArraySource, MappedSource, Source, stratified_split
from jaxdec.data.text import TokenWindows, byte_tokens
from jaxdec.data.tfds import tfds_source

__all__ = [
    "ArraySource",
    "Batches",
    "InOrder",
    "MappedSource",
    "Source",
    "TokenWindows",
    "batches",
    "byte_tokens",
    "digits",
    "fashion_mnist",
    "stratified_split",
    "tfds_source",
]
