"""Attention among chosen tokens against the mask that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.attention.sparse.token_sparse import attention_among
from jaxdec.attention.sparse.zipvl import ZipVL

among = jax.jit(attention_among)


def draw(seed, tokens=150, share=0.3):
    rng = np.random.default_rng(seed)
    shapes = [(2, tokens, heads, 8) for heads in (4, 2, 2)]
    chosen = rng.random((2, tokens)) < np.array([[share], [0.8]])
    return *(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes), jnp.asarray(chosen)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_it_is_the_masked_attention_of_the_rule(seed, share):
    q, k, v, chosen = draw(seed, share=share)
    mask = jnp.repeat(ZipVL().mask(chosen), 4, axis=1)
    expected = masked_attention(q, k, v, mask)
    out, lse = among(q, k, v, chosen)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert (np.isfinite(lse) == np.asarray(chosen)[..., None]).all()
    scores = jnp.einsum("bthe,bshe->bhts", q, jnp.repeat(k, 2, axis=2), precision="highest") * 8**-0.5
    expected = jax.nn.logsumexp(jnp.where(mask, scores, -jnp.inf), axis=-1).transpose(0, 2, 1)
    np.testing.assert_allclose(lse, expected, atol=2e-6)


def test_tokens_that_are_not_chosen_may_be_nan():
    q, k, v, chosen = draw(0)
    expected = among(q, k, v, chosen)[0]
    spoilt = [jnp.where(chosen[..., None, None], side, jnp.nan) for side in (q, k, v)]
    np.testing.assert_array_equal(among(*spoilt, chosen)[0], expected)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v, chosen = draw(0, tokens=6)
    with pytest.raises(ValueError, match="k must be of the 6 tokens of q; got 5"):
        attention_among(q, k[:, :5], v[:, :5], chosen[:, :5])


def test_sparsity_counts_the_cells_of_the_mask():
    *_, chosen = draw(3, tokens=20)
    lengths = jnp.asarray([20, 13])
    chosen = chosen & (jnp.arange(20) < lengths[:, None])
    cells = np.asarray(ZipVL().mask(chosen)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ZipVL().sparsity(chosen, lengths), 1 - cells / np.array([210, 91]), atol=1e-6)
    assert ZipVL().sparsity(jnp.zeros((1, 4), bool), jnp.asarray([0])) == 0


def test_a_fixed_ratio_keeps_that_share_of_the_best():
    rng = np.random.default_rng(0)
    received = jnp.asarray(rng.random((2, 40)), jnp.float32)
    lengths = jnp.asarray([40, 21])
    chosen = ZipVL(ratio=0.5).choose(received, received, lengths)
    assert chosen.sum(axis=1).tolist() == [20, 11]
    assert chosen[0, 39]
    assert chosen[1, 20]
    rest = np.asarray(received)[0, :39]
    assert set(np.flatnonzero(np.asarray(chosen)[0, :39])) == set(np.argsort(-rest)[:19])


@pytest.mark.parametrize("ratio", [0.0, 1.2])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=f"ratio must be more than 0 and at most 1; got {ratio}"):
        ZipVL(ratio=ratio)
