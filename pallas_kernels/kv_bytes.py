"""How many bytes of keys and values one decoding step reads: what sharing a prefix saves.

Hydragen: High-Throughput LLM Inference with Shared Prefixes. Juravsky et al., 2024, arXiv 2402.05099, section 3.

A batch of ``b`` rows with a common prefix of ``P`` tokens and ``S`` tokens of its own in each row reads

    b (P + S)    tokens of keys and of values if every row reads the prefix for itself,
    P + b S      if the prefix is read once for all rows.

As long as reading is what takes the time, attention can gain no more than the ratio of the two.
"""

from collections.abc import Iterable

import jax.numpy as jnp


def kv_bytes_read(parts: Iterable[tuple[int, int]], *, num_kv_heads: int, head_dim: int, dtype: str) -> int:
    """Bytes of keys and values that attention over all parts reads once.

    Args:
      parts: ``(copies, tokens)`` each: how many times a part is stored and read, and its length. A prefix shared by ``b`` rows
        is ``[(1, P), (b, S)]``, the same text without sharing ``[(b, P + S)]``, a tree of prefixes has a part per level.
      num_kv_heads: key/value heads.
      head_dim: width of one head.
      dtype: of the stored keys and values.

    Raises:
      ValueError: a negative number.
    """
    parts = list(parts)
    for copies, tokens in parts:
        if copies < 0 or tokens < 0:
            raise ValueError(f"parts must be pairs of numbers that are not negative; got {(copies, tokens)}")
    if num_kv_heads < 1 or head_dim < 1:
        raise ValueError(f"num_kv_heads and head_dim must be positive; got {num_kv_heads} and {head_dim}")
    per_token = 2 * num_kv_heads * head_dim * jnp.dtype(dtype).itemsize
    return per_token * sum(copies * tokens for copies, tokens in parts)
