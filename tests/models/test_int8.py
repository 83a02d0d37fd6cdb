"""Eight-bit weights: how far the product is from the float one, and what it does not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.decoding.speculative import PromptLookup, Speculative
from jaxdec.models.int8 import Int8Matrix, int8_product, quantize
from jaxdec.models.linear import linear
from jaxdec.models.transformer import in_int8
from tests.reference import full_logits
from tests.tiny_models import markov_model, tiny_transformer

product = jax.jit(int8_product)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 7]), st.sampled_from([1.0, 100.0]))
def test_the_error_is_within_its_bounds(seed, rows, outlier):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(rows, 24)), rng.normal(size=(10, 24))
    x[:, 3] *= outlier  # one large activation must not spoil the others
    matrix = quantize(jnp.asarray(w, jnp.float32))
    kept = np.asarray(matrix.values, np.float64) * np.asarray(matrix.scales, np.float64)[:, None]
    assert (np.abs(kept - w) <= np.abs(w).max(1, keepdims=True) / 254 + 1e-7).all()
    found = np.asarray(product(jnp.asarray(x, jnp.float32), matrix), np.float64)
    # Activations are rounded to within 1 / 508 of a step of 1 / 127 of the largest.
    step = np.abs(x).max(1, keepdims=True) / 127
    bound = step / 508 * np.abs(kept).sum(1) + 1e-4
    assert (np.abs(found - x @ kept.T) <= bound).all()


def test_a_row_is_the_same_to_the_last_bit_whatever_stands_beside_it():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(9, 576)), jnp.float32)
    matrix = quantize(jnp.asarray(rng.normal(size=(320, 576)), jnp.float32))
    together = product(x, matrix)
    for row in range(9):
        np.testing.assert_array_equal(product(x[row : row + 1], matrix)[0], together[row])


def test_zeros_are_zeros():
    matrix = quantize(jnp.zeros((3, 4)))
    assert not matrix.values.any()
    assert product(jnp.ones((2, 4)), matrix).tolist() == [[0] * 3] * 2
    assert product(jnp.zeros((2, 4)), quantize(jnp.ones((3, 4)))).tolist() == [[0] * 3] * 2


def test_linear_takes_both_kinds_of_matrices():
    x, w = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8)), jnp.float32), jnp.ones((5, 8))
    out = linear(x, quantize(w))
    assert (out.shape, out.dtype) == ((2, 3, 5), jnp.float32)
    np.testing.assert_allclose(out, linear(x, w), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, *(pytest.param(c, marks=pytest.mark.slow) for c in ({"tie_embeddings": False}, {"attention_bias": True}))],
)
def test_a_model_in_int8_is_close_to_the_original_and_decodes_like_itself(changes):
    model = tiny_transformer(scale=4.0, **changes)
    small = in_int8(model)
    assert small.nbytes() < 0.45 * model.nbytes()
    assert isinstance(small.params["layer_0"]["mlp"]["down"]["weight"], Int8Matrix)
    text = np.random.default_rng(0).integers(0, model.vocab_size, 20).tolist()
    exact, rounded = full_logits(model, text), full_logits(small, text)
    assert 0 < np.abs(exact - rounded).max() < 0.1 * exact.std()
    prompt = Prompt.create([[3, 1, 4, 1, 5, 3, 1], [9, 2]], 20)
    plain = decode(Autoregressive(), small, prompt)
    drafted = decode(Speculative(PromptLookup(num_nodes=3)), small, prompt)
    np.testing.assert_array_equal(plain.tokens[..., :20], drafted.tokens[..., :20])
    np.testing.assert_allclose(small.token_embeddings(), model.token_embeddings(), atol=0.05)


@pytest.mark.slow
def test_fresh_parameters_have_the_form_of_quantised_ones():
    small = in_int8(tiny_transformer())
    zeros = jnp.zeros((1, 1), jnp.int32)
    made = small.module.init(jax.random.key(0), zeros, zeros, small.init_cache(1, 2))["params"]
    assert jax.tree.structure(made) == jax.tree.structure(small.params)


def test_only_transformers_are_rounded():
    with pytest.raises(ValueError, match="model must be a Transformer, and is a MarkovModule"):
        in_int8(markov_model()[0])
