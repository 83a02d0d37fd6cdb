"""Kernels for decoding, one folder per operation. Depends on jax alone and knows nothing of jaxdec."""

from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.kv_bytes import kv_bytes_read
from pallas_kernels.merge import merge
from pallas_kernels.prefix_attention import prefix_attention

__all__ = ["decode_attention", "kv_bytes_read", "merge", "prefix_attention"]
