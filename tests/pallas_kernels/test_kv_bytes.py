"""The formula against a count: NumPy attention that notes every key and value it reads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels import kv_bytes_read


def bytes_of_reading(arrays) -> int:
    return sum(array.nbytes for array in arrays)


@given(st.integers(1, 5), st.integers(0, 30), st.integers(0, 9), st.integers(1, 4), st.integers(1, 8))
def test_counts_what_a_step_reads(batch, prefix, suffix, heads, width):
    store = lambda tokens: np.zeros((2, tokens, heads, width), np.float16)  # noqa: E731
    shared, own = store(prefix), [store(suffix) for _ in range(batch)]
    sizes = {"num_kv_heads": heads, "head_dim": width, "dtype": "float16"}
    once = bytes_of_reading([shared, *own])
    each = bytes_of_reading(array for row in own for array in (shared, row))
    assert kv_bytes_read([(1, prefix), (batch, suffix)], **sizes) == once
    assert kv_bytes_read([(batch, prefix + suffix)], **sizes) == each


def test_llama_3_8b():
    sizes = {"num_kv_heads": 8, "head_dim": 128, "dtype": "bfloat16"}
    assert kv_bytes_read([(1, 1)], **sizes) == 4096
    alone, shared = kv_bytes_read([(64, 8192 + 32)], **sizes), kv_bytes_read([(1, 8192), (64, 32)], **sizes)
    assert alone / shared == pytest.approx(64 * 8224 / (8192 + 64 * 32))


def test_refuses():
    with pytest.raises(ValueError, match=r"parts must be pairs of numbers that are not negative; got \(1, -2\)"):
        kv_bytes_read([(1, -2)], num_kv_heads=1, head_dim=1, dtype="float32")
    with pytest.raises(ValueError, match="num_kv_heads and head_dim must be positive; got 0 and 1"):
        kv_bytes_read([(1, 2)], num_kv_heads=0, head_dim=1, dtype="float32")
