"""Kernels for decoding, one folder per operation. Depends on jax alone and knows nothing of jaxdec."""

from pallas_kernels.block_sparse_attention import block_sparse_attention
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.kv_bytes import kv_bytes_read
from pallas_kernels.merge import merge
from pallas_kernels.prefix_attention import prefix_attention
from pallas_kernels.sparse_decode_attention import sparse_decode_attention

__all__ = [
    "block_sparse_attention",
    "decode_attention",
    "kv_bytes_read",
    "merge",
    "prefix_attention",
    "sparse_decode_attention",
]
