"""Block-sparse selection against loops over blocks, and its sparsity against formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.block_sparse import BlockSparse, block_table
from jaxdec.attention.sparse.selection import Selection, sparsity
from pallas_kernels import block_sparse_attention
from tests.attention.sparse.prompts import RULES, attend, block_sparse_mask, mask_of, prompts, selection_of


@pytest.mark.parametrize("name", ["blocks of 8", "blocks of 5"])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(0, 70), min_size=2, max_size=2))
def test_reads_the_blocks_whose_means_agree(name, seed, lengths):
    q, k, _, lengths = prompts(seed, (2, 70, 4, 2, 8), lengths)
    np.testing.assert_array_equal(mask_of(RULES[name], q, k, lengths), block_sparse_mask(RULES[name], q, k, lengths))


@pytest.mark.parametrize("name", ["blocks of 8", pytest.param("blocks of 5", marks=pytest.mark.slow)])
def test_the_kernel_reads_the_same_blocks(name):
    rule = RULES[name]
    q, k, v, lengths = prompts(3, (2, 70, 4, 2, 8), [70, 29])
    table = block_table(selection_of(rule, q, k, lengths))
    got = block_sparse_attention(q, k, v, lengths, *table, block_q=rule.block, block_k=rule.block)
    for ours, theirs in zip(got, attend(q, k, v, lengths, rule=rule)):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_what_is_not_whole_blocks_is_refused_as_a_table():
    tiles, count = jnp.array([[0, 16], [0, 12]]), jnp.array([1, 2])
    nothing = jnp.zeros((2, 0), int)
    with pytest.raises(ValueError, match="selection must have tiles that begin at multiples of 8; got 12"):
        block_table(Selection(tiles, count, nothing, count * 0, block=8))
    with pytest.raises(ValueError, match="selection must have no columns; got 2 for each block of queries"):
        block_table(Selection(tiles, count, tiles, count, block=4))
    index, _ = jax.jit(block_table)(Selection(tiles, count, nothing, count * 0, block=4))
    np.testing.assert_array_equal(index, [[0, 4], [0, 3]])


@pytest.mark.parametrize("top_blocks", [3, 5, 9, 20])
def test_sparsity_is_the_formula(top_blocks):
    rule = BlockSparse(top_blocks=top_blocks, block=8)
    lengths = [72, 67, 24, 25, 5, 8]
    q, k, _, lengths = prompts(0, (6, 72, 1, 1, 4), lengths)
    measured = sparsity(selection_of(rule, q, k, lengths), lengths)
    np.testing.assert_allclose(measured[:, 0], [rule.sparsity(int(n)) for n in lengths], atol=1e-6)
    # Nawrot et al. count whole blocks: 1 - (k (k + 1) / 2 + (n - k) k) / (n (n + 1) / 2).
    mask = mask_of(rule, q, k, lengths)[0, 0]
    blocks = mask.reshape(9, 8, 9, 8).any((1, 3)).sum()
    few = min(top_blocks, 9)
    assert blocks == few * (few + 1) // 2 + (9 - few) * few


def test_compressions_give_the_published_budgets():
    """Nawrot et al. 2025, table 6: blocks of 16 in prompts of 16384 tokens."""
    published = {20: 26, 15: 35, 10: 53, 7.5: 71, 5: 108, 2: 300}
    for compression, top_blocks in published.items():
        rule = BlockSparse.at_compression(compression, 16384)
        assert abs(rule.top_blocks - top_blocks) <= 1
        assert 1 / (1 - rule.sparsity(16384)) == pytest.approx(compression, rel=0.02)
    assert BlockSparse.at_compression(1, 16384).sparsity(16384) == 0
    assert BlockSparse.at_compression(1000, 16384).top_blocks == 3
    assert BlockSparse.at_compression(4, 10, block=8).sparsity(10) == 0, "three blocks are all there are"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: BlockSparse(top_blocks=2), "top_blocks must be at least 3, .*; got 2"),
        (lambda: BlockSparse(block=0), "block must be at least 1 token; got 0"),
        (lambda: BlockSparse.at_compression(0.99, 100), "compression must be at least 1, .*; got 0.99"),
        (lambda: BlockSparse.at_compression(float("nan"), 100), "compression must be at least 1, .*; got nan"),
        (lambda: BlockSparse.at_compression(2, 0), "num_tokens must be at least 1; got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_selecting_costs_a_product_of_means():
    assert BlockSparse(block=16).selecting_flops(1000, num_heads=3, head_dim=64) == 2 * 63**2 * 64 * 3
