"""Costs of attention: sums over single products, the paper's shares, compression 1, bad input."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from jaxdec.evaluation.attention_costs import (
    QWEN25,
    ModelShape,
    attention_flops,
    compression_of,
    decode_bytes,
    other_flops,
    prefill_flops,
    sparsity_of,
)

SHAPE = ModelShape(3, 40, 6, 2, 8, 56, 100)


def product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


@given(st.integers(1, 300))
def test_dense_prefill_is_the_sum_of_its_products(tokens):
    s = SHAPE
    heads, kv_heads = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
    layer = product(tokens, s.hidden_size, heads) + product(tokens, heads, s.hidden_size)
    layer += 2 * product(tokens, s.hidden_size, kv_heads)
    layer += 2 * product(tokens, s.hidden_size, s.intermediate_size)
    layer += product(tokens, s.intermediate_size, s.hidden_size)
    rows = sum(product(1, s.head_dim, t + 1) + product(1, t + 1, s.head_dim) for t in range(tokens))
    head = product(1, s.hidden_size, s.vocab_size)
    assert prefill_flops(s, tokens) == s.num_layers * (layer + s.num_heads * rows) + head
    square = 2 * product(tokens, s.head_dim, tokens)
    assert attention_flops(s, tokens, convention="square") == s.num_layers * s.num_heads * square
    assert other_flops(s, tokens) == s.num_layers * layer + head


@given(st.integers(1, 300), st.sampled_from(["causal", "square"]))
def test_compression_1_is_dense(tokens, convention):
    dense = prefill_flops(SHAPE, tokens, convention=convention)
    assert prefill_flops(SHAPE, tokens, sparsity_of(1), convention=convention) == dense
    assert decode_bytes(SHAPE, tokens, sparsity_of(1), page_size=16) == decode_bytes(SHAPE, tokens)
    half = prefill_flops(SHAPE, tokens, sparsity_of(2), convention=convention)
    assert dense - half == pytest.approx(attention_flops(SHAPE, tokens, convention=convention) / 2)


def test_shares_of_attention_are_those_of_the_paper_with_its_convention():
    def shares(convention):
        shape = QWEN25["7B"]
        return [
            attention_flops(shape, 1024 * n, convention=convention)
            / prefill_flops(shape, 1024 * n, convention=convention)
            for n in (16, 32, 64, 128)
        ]

    assert shares("causal") == pytest.approx([0.20, 0.33, 0.50, 0.67], abs=0.012)
    square = shares("square")
    assert square[0] == pytest.approx(0.33, abs=0.02)
    assert square[-1] == pytest.approx(0.80, abs=0.02)


def test_sizes_of_models():
    for name, shape in QWEN25.items():
        assert shape.num_params / 1e9 == pytest.approx(
            {"7B": 7.6, "14B": 14.8, "32B": 32.8, "72B": 72.7}[name], rel=0.01
        )
    tied = dataclasses.replace(SHAPE, tie_embeddings=True)
    assert SHAPE.num_params - tied.num_params == 100 * 40
    assert SHAPE.read_params == tied.read_params == tied.num_params


def test_decoding_reads_weights_keys_and_summaries():
    weights = 2 * SHAPE.read_params
    assert decode_bytes(SHAPE, 64) - weights == 3 * (2 * 2 * 8 * 2) * 64
    assert decode_bytes(SHAPE, 64, batch=4) - weights / 4 == 3 * (2 * 2 * 8 * 2) * 64
    assert decode_bytes(SHAPE, 64, 0.75) - weights == 3 * (2 * 2 * 8 * 2) * 16
    assert decode_bytes(SHAPE, 64, 0.75, page_size=16) - weights == 3 * (2 * 2 * 8 * 2) * (16 + 4)
    assert decode_bytes(SHAPE, 64, bytes_per_number=0.5) - weights == 3 * (2 * 2 * 8) * 64 // 2


def test_selecting_counts():
    rule = VerticalSlash(64, 64, window=32, local=32)
    selecting = rule.selecting_flops(512, SHAPE.num_heads, SHAPE.head_dim)
    assert prefill_flops(SHAPE, 512, 0.5, selecting=selecting) - prefill_flops(SHAPE, 512, 0.5) == 3 * selecting


def test_compression_and_sparsity():
    assert sparsity_of(4) == 0.75
    assert compression_of(0.75) == 4
    for value in (0.5, float("nan")):
        with pytest.raises(ValueError, match="compression must be at least 1, which is dense; got"):
            sparsity_of(value)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 1"):
        compression_of(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ModelShape(0, 40, 6, 2, 8, 56, 100), "num_layers must be at least 1, got 0"),
        (lambda: ModelShape(3, 40, 6, 4, 8, 56, 100), "num_heads must be a multiple of num_kv_heads, 4; got 6"),
        (lambda: prefill_flops(SHAPE, 0), "num_tokens must be at least 1, got 0"),
        (lambda: prefill_flops(SHAPE, 9, -0.1), r"sparsity must be in \[0, 1\), got -0.1"),
        (lambda: prefill_flops(SHAPE, 9, selecting=-1), "selecting must not be negative, got -1"),
        (lambda: prefill_flops(SHAPE, 9, convention="half"), "convention must be one of causal, square; got 'half'"),
        (lambda: decode_bytes(SHAPE, 9, 1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: decode_bytes(SHAPE, 9, batch=0), "batch must be at least 1, got 0"),
        (lambda: decode_bytes(SHAPE, 9, page_size=0), "page_size must be at least 1, got 0"),
        (lambda: decode_bytes(SHAPE, 9, bytes_per_number=0), "bytes_per_number must be positive, got 0"),
        (lambda: decode_bytes(SHAPE, 9, bytes_per_weight=0), "bytes_per_weight must be positive, got 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
