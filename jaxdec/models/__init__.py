"""Flax Linen models, one family per file, all behind the language-model contract."""

from jaxdec.models.config import DecoderConfig, RopeScaling
from jaxdec.models.transformer import Transformer

__all__ = ["DecoderConfig", "RopeScaling", "Transformer"]
