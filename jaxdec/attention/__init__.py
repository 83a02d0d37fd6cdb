"""Attention over key/value caches."""

from jaxdec.attention.dense import SlotMask, dense_attention

__all__ = ["SlotMask", "dense_attention"]
