"""Chunked prefill: the mask against loops over tokens, the executor against attention over it, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.chunked_prefill import ChunkedPrefill
from jaxdec.attention.sparse.selection import kv_bytes_selected, sparsity
from tests.attention.sparse.prompts import attend, causal_mask, prompts, textbook

SHAPE = (2, 70, 4, 2, 8)
RULES = {
    "groups of their own": ChunkedPrefill(chunk=12, previous=1, prefix=5, marker=2, suffix=7, block=8),
    "several groups": ChunkedPrefill(chunk=12, group=4, previous=2, prefix=3, marker=1, suffix=4, block=5),
    "blocks over several chunks": ChunkedPrefill(chunk=3, previous=1, prefix=2, marker=1, suffix=1, block=16),
    "chunks alone": ChunkedPrefill(chunk=10, previous=0, block=4),
    "markers alone": ChunkedPrefill(chunk=6, previous=0, marker=6, block=4),
}


@functools.partial(jax.jit, static_argnums=0)
def chosen(rule, q, k, lengths):
    return rule.mask(q, k, lengths), rule.selection(q, k, lengths)


def kinds(rule, length):
    """Of every token its kind and, in chunks, the chunk: by walking through the prompt."""
    told, token = [], 0
    while token < length:
        if token >= length - rule.suffix:
            told.append(("question", None))
        elif token < rule.prefix:
            told.append(("prefix", None))
        else:
            chunk, within = divmod(token - rule.prefix, rule.chunk)
            place = within % (rule.group or rule.chunk)
            told.append(("marker" if place < rule.marker else "content", chunk))
        token += 1
    return told


def loop_mask(rule, length, size):
    mask = np.zeros((size, size), bool)
    told = kinds(rule, length)
    for t, (kind, chunk) in enumerate(told):
        for j, (other, theirs) in enumerate(told[: t + 1]):
            mask[t, j] = kind != "content" or other != "content" or chunk - theirs <= rule.previous
    return mask


@pytest.mark.parametrize(
    "name",  # compiling takes most of the time
    [
        name if name in ("several groups", "chunks alone") else pytest.param(name, marks=pytest.mark.slow)
        for name in RULES
    ],
)
@settings(deadline=None, max_examples=6)
@given(lengths=st.lists(st.integers(0, 70), min_size=2, max_size=2), seed=st.integers(0, 10**6))
def test_mask_and_executor_are_the_rule(name, lengths, seed):
    rule = RULES[name]
    q, k, v, lengths = prompts(seed, SHAPE, lengths)
    mask, selection = chosen(rule, q, k, lengths)
    expected = np.stack([loop_mask(rule, int(length), 70) for length in lengths])
    np.testing.assert_array_equal(mask, np.broadcast_to(expected[:, None], mask.shape))
    out, lse = attend(q, k, v, lengths, rule=rule)
    wanted, wanted_lse = textbook(q, k, v, mask)
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    np.testing.assert_allclose(lse, wanted_lse, atol=1e-5)
    for row, length in enumerate(lengths.tolist()):
        cells = length * (length + 1) // 2
        assert rule.pairs(length) == expected[row].sum()
        assert rule.sparsity(length) == pytest.approx(1 - expected[row].sum() / cells if cells else 0)
        assert float(sparsity(selection, lengths)[row, 0]) <= rule.sparsity(length) + 1e-6


@pytest.mark.slow
def test_all_chunks_before_is_dense():
    """Six chunks; five before the last one."""
    rule = ChunkedPrefill(chunk=12, previous=5, marker=2, block=8)
    q, k, v, lengths = prompts(0, SHAPE, [70, 37])
    mask = causal_mask(SHAPE, lengths)
    np.testing.assert_array_equal(chosen(rule, q, k, lengths)[0], mask)
    np.testing.assert_allclose(attend(q, k, v, lengths, rule=rule)[0], textbook(q, k, v, mask)[0], atol=1e-5)
    for previous in (5, 6, 99):
        assert ChunkedPrefill(chunk=12, previous=previous, marker=2).sparsity(70) == 0
    assert ChunkedPrefill(chunk=12, previous=4, marker=2).sparsity(70) > 0


def test_the_authors_setting():
    """Four groups of 144 tokens, each with some six of a time stamp, three chunks before: pairs fall about as (3 + 1) / N."""
    rule = ChunkedPrefill(chunk=600, group=150, marker=6, previous=3, prefix=14, suffix=20)
    for chunks, least, most in [(4, 0, 0), (16, 0.55, 0.65), (64, 0.8, 0.84)]:
        assert least <= rule.sparsity(14 + 600 * chunks + 20) <= most


def test_blocks_with_a_marker_are_what_is_computed_beyond_the_mask():
    """One block of 8 in each group of 40 has markers: about a fifth of the causal cells more, and no more than a fifth."""
    rule = ChunkedPrefill(chunk=40, marker=4, previous=0, block=8)
    q, k, _, lengths = prompts(0, (1, 1200, 1, 1, 4), [1200])
    selection = jax.jit(lambda q, k, n: rule.selection(q, k, n))(q, k, lengths)
    beyond = rule.sparsity(1200) - float(sparsity(selection, lengths)[0, 0])
    assert 0 < beyond <= 8 / 40
    keys = np.asarray(selection.num_tiles * 8 + selection.num_columns).sum()
    assert float(kv_bytes_selected(selection, 4, "float32")[0, 0]) == keys * 2 * 4 * 4


def test_other_rules_read_what_lies_not_behind():
    rule = BlockSparse()
    place = jnp.arange(5)
    np.testing.assert_array_equal(rule.reads(place[:, None], place, jnp.int32(5)), np.tril(np.ones((5, 5), bool)))


def test_selecting_costs_nothing():
    assert ChunkedPrefill().selecting_flops(1000, 3, 64) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"previous": -1}, "previous must be at least 0; got -1"),
        ({"prefix": -2}, "prefix must be at least 0; got -2"),
        ({"suffix": -1}, "suffix must be at least 0; got -1"),
        ({"marker": -1}, "marker must be at least 0; got -1"),
        ({"chunk": 12, "marker": 13}, "marker must be at most the 12 tokens of a group; got 13"),
        ({"chunk": 12, "group": 5}, "group must divide the 12 tokens of a chunk; got 5"),
        ({"chunk": 12, "group": 0}, "group must divide the 12 tokens of a chunk; got 0"),
        ({"chunk": 12, "group": 4, "marker": 5}, "marker must be at most the 4 tokens of a group; got 5"),
        ({"block": 0}, "block must be at least 1 token; got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        ChunkedPrefill(**sizes)
