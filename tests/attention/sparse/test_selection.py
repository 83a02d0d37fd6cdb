"""What selections cost, what is in all of them, and what larger budgets change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.gathered import sparse_attention
from jaxdec.attention.sparse.selection import kv_bytes_selected, masked_attention, sparsity
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from tests.attention.sparse.prompts import NAMES, RULES, SHAPE_OF, SHAPES, causal_mask, mask_of, prompts, selection_of
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

BUDGETS = (6, 16, 48)
BY_BUDGET = {
    "block-sparse": [BlockSparse(top_blocks=budget // 2, block=4) for budget in BUDGETS],
    "vertical-slash": [VerticalSlash(budget, budget, window=16, sinks=2, local=4, tile=4) for budget in BUDGETS],
    "flex": [FlexPrefill(alpha=alpha, min_budget=4, window=16, sinks=2, local=4, tile=4) for alpha in (0.1, 0.5, 0.95)],
}


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_cells_and_bytes_are_those_of_the_mask(name, data):
    shape = SHAPE_OF[name]
    batch, tokens, heads, _, width = shape
    lengths = data.draw(st.lists(st.integers(0, tokens), min_size=batch, max_size=batch))
    q, k, _, lengths = prompts(data.draw(st.integers(0, 10**6)), shape, lengths)
    selection, mask = selection_of(RULES[name], q, k, lengths), mask_of(RULES[name], q, k, lengths)
    cells = np.maximum(np.asarray(lengths) * (np.asarray(lengths) + 1) / 2, 1)[:, None]
    computed = mask.sum((2, 3)) + (np.asarray(lengths) == 0)[:, None]
    np.testing.assert_allclose(sparsity(selection, lengths), 1 - computed / cells, atol=1e-6)

    read = np.zeros((batch, heads))
    unused = selection.tiles.shape[-2] * selection.block
    lists = [
        np.asarray(side) for side in (selection.tiles, selection.num_tiles, selection.columns, selection.num_columns)
    ]
    for row, head, block in np.ndindex(selection.num_tiles.shape):
        tiles, num_tiles, columns, num_columns = (side[row, head, block] for side in lists)
        assert (tiles[num_tiles:] == unused).all()
        assert (columns[num_columns:] == unused).all()
        keys = [start + i for start in tiles[:num_tiles] for i in range(selection.block)] + list(columns[:num_columns])
        assert len(set(keys)) == len(keys), "no key is read twice"
        rows = mask[row, head, block * selection.block : (block + 1) * selection.block]
        assert set(np.nonzero(rows.any(0))[0]) <= set(keys)
        read[row, head] += len(keys)
    np.testing.assert_array_equal(kv_bytes_selected(selection, width, "bfloat16"), read * 2 * width * 2)


@pytest.mark.parametrize("name", NAMES)
def test_sinks_the_window_and_the_own_key_are_always_read(name):
    rule, shape = RULES[name], SHAPE_OF[name]
    batch, tokens = shape[:2]
    q, k, _, lengths = prompts(0, shape, [tokens, 13, 1][:batch])
    # Keys that all queries turn away from, so that only force brings these in.
    k = k.at[:, :4].set(-30).at[:, 20:].set(-30)
    mask = mask_of(rule, jnp.abs(q), k, lengths)
    query, key = np.mgrid[:tokens, :tokens]
    if isinstance(rule, BlockSparse):
        always = (key < rule.block) | (query // rule.block - key // rule.block <= 1)
    else:
        always = (key < rule.sinks) | (query - key < rule.local)
    always = causal_mask(shape, lengths) & always
    assert (mask | ~always).all()
    assert not (mask & ~causal_mask(shape, lengths)).any()


@pytest.mark.parametrize(
    "name",
    [
        "block-sparse",
        pytest.param("vertical-slash", marks=pytest.mark.slow),
        pytest.param("flex", marks=pytest.mark.slow),
    ],
)
def test_larger_budgets_compute_more_and_err_less(name):
    shape = (12, 64, 2, 1, 8)
    q, k, v, lengths = prompts(8, shape, [64] * 12, sharpness=2)
    reference = jax.jit(masked_attention)
    dense = np.asarray(reference(q, k, v, jnp.asarray(causal_mask(shape, lengths))))
    sparsities, errors = [], []
    for rule in BY_BUDGET[name]:
        sparsities.append(np.asarray(sparsity(selection_of(rule, q, k, lengths), lengths)))
        sparse = reference(q, k, v, jnp.asarray(mask_of(rule, q, k, lengths)))
        errors.append(float(np.linalg.norm(np.asarray(sparse) - dense)))
    assert (np.diff(np.mean(sparsities, axis=(1, 2))) < 0).all()
    assert (np.diff(errors) < 0).all()
    assert (np.diff(sparsities, axis=0) <= 0.01).all(), "of every head, but for a tile that lies elsewhere"


def test_mask_of_a_rule_is_that_of_its_selection():
    q, k, _, lengths = prompts(9, SHAPES[1], [32, 20, 0])
    np.testing.assert_array_equal(
        RULES["blocks of 5"].mask(q, k, lengths), mask_of(RULES["blocks of 5"], q, k, lengths)
    )


def test_what_does_not_fit_is_refused():
    q, k, v, lengths = prompts(0, (2, 20, 4, 2, 8), [20, 9])
    rule = BlockSparse(block=4)
    refused = {
        "q must have a multiple of k's 2 heads; got 3": (q[:, :, :3], k, v, lengths),
        r"k must be of the tokens of q, \[2, 20\]; got \[2, 19\]": (q, k[:, :19], v[:, :19], lengths),
        r"lengths must be in 0\.\.20; got 21": (q, k, v, lengths + 1),
    }
    for message, arguments in refused.items():
        with pytest.raises(ValueError, match=message):
            sparse_attention(*arguments, rule=rule)
    with pytest.raises(TypeError, match="q, k and v must have one type"):
        sparse_attention(q.astype(jnp.bfloat16), k, v, lengths, rule=rule)
    with pytest.raises(ValueError, match="k must be of the tokens of q"):
        rule.mask(q, k[:, :19], lengths)
    with pytest.raises(ValueError, match="k must be of the tokens of q"):
        jax.eval_shape(lambda q, k: rule.selection(q, k, lengths), q, k[:, :19])
