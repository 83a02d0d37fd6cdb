"""The gathered executor against attention over the mask of what was selected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse import gathered
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.gathered import sparse_attention
from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from tests.attention.sparse.prompts import (
    NAMES,
    RULES,
    SHAPE_OF,
    SHAPES,
    attend,
    causal_mask,
    mask_of,
    prompts,
    selection_of,
    textbook,
)
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

EVERYTHING = {
    "block-sparse": BlockSparse(top_blocks=99, block=8),
    "columns": VerticalSlash(vertical=99, slash=3, window=12, local=3, tile=8),
    "diagonals": VerticalSlash(vertical=4, slash=99, window=12, local=3, tile=8),
    "flex by alpha": FlexPrefill(alpha=1.0, min_budget=4, window=12, local=3, tile=8),
    "flex by budget": FlexPrefill(alpha=0.0, min_budget=99, window=12, local=3, tile=8),
}


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_equals_attention_over_the_mask(name, data):
    shape = SHAPE_OF[name]
    lengths = data.draw(st.lists(st.integers(0, shape[1]), min_size=shape[0], max_size=shape[0]))
    q, k, v, lengths = prompts(data.draw(st.integers(0, 10**6)), shape, lengths)
    mask = mask_of(RULES[name], q, k, lengths)
    out, lse = attend(q, k, v, lengths, rule=RULES[name])
    wanted, wanted_lse = textbook(q, k, v, mask)
    assert out.dtype == lse.dtype == jnp.float32
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    np.testing.assert_allclose(lse, wanted_lse, atol=1e-5)
    np.testing.assert_allclose(masked_attention(q, k, v, jnp.asarray(mask)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id=name, marks=[pytest.mark.slow] if name == "flex by budget" else [])
        for name, rule in EVERYTHING.items()
    ],
)
def test_whole_budget_is_dense_attention(rule):
    shape, lengths = (2, 70, 4, 2, 8), [70, 37]
    q, k, v, lengths = prompts(1, shape, lengths)
    dense, lse = textbook(q, k, v, causal_mask(shape, lengths))
    out, out_lse = attend(q, k, v, lengths, rule=rule)
    np.testing.assert_allclose(out, dense, atol=1e-5)
    np.testing.assert_allclose(out_lse, lse, atol=1e-5)


@pytest.mark.parametrize("name", ["blocks of 8", pytest.param("flex", marks=pytest.mark.slow)])
def test_rows_of_a_ragged_batch_equal_single_prompts(name):
    shape, lengths = (3, 70, 2, 1, 8), [70, 44, 7]
    q, k, v, lengths = prompts(5, shape, lengths)
    together = attend(q, k, v, lengths, rule=RULES[name])[0]
    for row, length in [(1, 44), (2, 7)]:
        alone = (side[row : row + 1, :44] for side in (q, k, v))
        out = attend(*alone, lengths[row : row + 1], rule=RULES[name])[0]
        np.testing.assert_allclose(out[0, :length], together[row, :length], atol=1e-5)
        assert not np.asarray(together[row, length:]).any()


@pytest.mark.parametrize("name", ["blocks of 8", "vertical-slash"])
def test_work_follows_what_is_selected(name, monkeypatch):
    """In small chunks, of which no more are computed than hold selected keys."""
    chunks = []
    fold, chunk = gathered.fold, 16

    def counted(state, scores, values):
        jax.debug.callback(lambda: chunks.append(scores.shape[1]))
        return fold(state, scores, values)

    monkeypatch.setattr(gathered, "fold", counted)
    monkeypatch.setattr(gathered, "KEYS_AT_A_TIME", chunk)
    q, k, v, lengths = prompts(2, (2, 70, 4, 2, 8), [70, 30])
    out = jax.jit(lambda *sides: sparse_attention(*sides, rule=RULES[name]))(q, k, v, lengths)
    jax.effects_barrier()
    np.testing.assert_allclose(out, textbook(q, k, v, mask_of(RULES[name], q, k, lengths))[0], atol=1e-5)
    selection = selection_of(RULES[name], q, k, lengths)
    tiles = -(-np.asarray(selection.num_tiles) // (chunk // selection.block)).sum()
    columns = -(-np.asarray(selection.num_columns) // min(chunk, max(selection.columns.shape[-1], 1))).sum()
    assert len(chunks) == tiles + columns


@pytest.mark.parametrize(
    "rule",
    [BlockSparse(), VerticalSlash(128, 128), FlexPrefill(min_budget=128, max_budget=256)],
    ids=lambda r: type(r).__name__,
)
def test_nothing_is_as_large_as_the_square_of_the_prompt(rule):
    tokens = 2048
    shapes = [jax.ShapeDtypeStruct((1, tokens, heads, 16), jnp.float32) for heads in (2, 1, 1)]
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    sizes = list(sizes_in(jax.make_jaxpr(lambda *sides: sparse_attention(*sides, rule=rule))(*shapes, lengths).jaxpr))
    assert max(sizes) < tokens**2 // 2
    masked = jax.make_jaxpr(lambda q, k, v, n: masked_attention(q, k, v, rule.mask(q, k, n)))(*shapes, lengths)
    assert max(sizes_in(masked.jaxpr)) >= tokens**2, "the measure itself must see a mask"


def sizes_in(jaxpr):
    """Sizes of all results of a program, those in its loops included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from sizes_in(getattr(inner, "jaxpr", inner))


def test_bfloat16():
    rule = RULES["blocks of 8"]
    q, k, v, lengths = prompts(3, SHAPES[0], [70, 50], jnp.bfloat16)
    out = attend(q, k, v, lengths, rule=rule)[0]
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, textbook(q, k, v, mask_of(rule, q, k, lengths))[0], atol=1e-5)


@pytest.mark.slow
def test_float64():
    rule = RULES["vertical-slash"]
    with jax.enable_x64(True):
        q, k, v, lengths = prompts(3, SHAPES[0], [70, 50], jnp.float64)
        out = attend(q, k, v, lengths, rule=rule)[0]
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, textbook(q, k, v, mask_of(rule, q, k, lengths))[0], atol=1e-12)


def test_scores_too_large_for_exp_are_no_trouble():
    q, k, v, lengths = prompts(4, SHAPES[0], [70, 50], sharpness=1e4)
    for rule in (RULES["blocks of 8"], RULES["vertical-slash"]):
        out = attend(q, k, v, lengths, rule=rule)[0]
        np.testing.assert_allclose(out, textbook(q, k, v, mask_of(rule, q, k, lengths))[0], atol=1e-2)
