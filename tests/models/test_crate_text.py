"""CRATE on text: the language model behind the contract, and the masked model that sees both ways."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.language_model import LanguageModule
from jaxdec.models import crate_bert, crate_lm
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_bert import CrateBert, CrateBertConfig
from jaxdec.models.crate_lm import CrateLM, CrateLMConfig
from tests.models.test_crate import attention, coded, noisy, norm
from tests.reference import full_logits
from tests.tiny_models import tiny_crate

LAYERS = CrateConfig(hidden_size=16, num_layers=2, num_heads=2, output_bias=False)
BERT = CrateBertConfig(LAYERS, vocab_size=20, max_position_embeddings=12)


def test_the_language_model_equals_the_equations():
    """Causal attention as that of every token among those up to it, one length after the other."""
    model = tiny_crate(seed=2)
    config = model.module.config.layers
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model.params)
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, 9)
    x = (p["token_table"][tokens] + p["position_table"][:9])[None]
    for number in range(config.num_layers):
        layer = p[f"layer_{number}"]
        normed = norm(x, layer["attention_norm"], config.norm_eps)
        out = [attention(normed[:, : t + 1], layer["attention"], config)[:, -1] for t in range(9)]
        x = coded(norm(x + np.stack(out, 1), layer["coding_norm"], config.norm_eps), layer["coding"], config)
    expected = norm(x, p["final_norm"], config.norm_eps)[0] @ p["token_table"].T
    np.testing.assert_allclose(full_logits(model, tokens.tolist()), expected, rtol=1e-4, atol=1e-4)


def test_the_contract_of_language_models():
    model = tiny_crate()
    assert isinstance(model.module, LanguageModule)
    assert model.token_embeddings().shape == (model.vocab_size, 32)
    assert model.module.num_heads == 4


def test_published_gpt_has_sixty_million_parameters():
    config = crate_lm.published()
    module = CrateLM(config)
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), zeros, zeros, module.init_cache(1, 1)))
    assert round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6) == 61


def test_bert_sees_both_ways_and_no_padding():
    module = CrateBert(BERT)
    tokens = np.array([[5, 6, 7, 8, 1, 1], [9, 3, 4, 1, 1, 1]], np.int32)
    variables = {"params": noisy(jax.jit(module.init)(jax.random.key(0), tokens)["params"])}
    apply = jax.jit(module.apply)
    logits, hidden = apply(variables, tokens)
    assert (logits.shape, hidden.shape) == ((2, 6, 20), (2, 6, 16))
    changed = tokens.copy()
    changed[0, 3] = 11
    assert np.abs(np.asarray(apply(variables, changed)[0] - logits)[0, 0]).max() > 1e-4
    longer = np.concatenate([tokens[:, :4], np.full((2, 1), 1, np.int32)], axis=1)
    np.testing.assert_allclose(apply(variables, longer)[0][0, :4], logits[0, :4], rtol=1e-4, atol=1e-5)


def test_positions_of_bert_begin_behind_the_padding_token():
    module = CrateBert(BERT)
    tokens = jnp.array([[5, 6]], jnp.int32)
    params = module.init(jax.random.key(0), tokens)["params"]
    logits = module.apply({"params": params}, tokens)[0]
    for row, matters in ((0, False), (1, False), (2, True), (3, True), (4, False)):
        moved = {**params, "position_table": params["position_table"].at[row, 0].add(1.0)}
        assert bool(np.abs(np.asarray(module.apply({"params": moved}, tokens)[0] - logits)).max() > 1e-4) == matters


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrateLMConfig(LAYERS, 0, 4), "vocab_size must be at least 1, got 0"),
        (lambda: CrateLMConfig(LAYERS, 4, 0), "max_position_embeddings must be at least 1, got 0"),
        (lambda: dataclasses.replace(BERT, padding_token=20), r"padding_token must be in \[0, 20\), got 20"),
        (lambda: dataclasses.replace(BERT, max_position_embeddings=2), "must be above padding_token . 1 = 2, got 2"),
        (
            lambda: CrateBert(BERT).init(jax.random.key(0), jnp.zeros((1, 11), jnp.int32)),
            "tokens must be at most 10 long, got 11",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_published_bert_has_no_bias_in_attention():
    assert not crate_bert.published().layers.output_bias
