"""Attention over key/value caches."""

from jaxdec.attention.dense import dense_attention

__all__ = ["dense_attention"]
