"""The language-modelling recipe is the next-token loss, and a Transformer learns with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.language_model import LanguageModel
from jaxdec.models import Transformer
from jaxdec.training.next_token import Texts, next_token_loss
from jaxdec.training.recipe import Recipe
from jaxdec.training.recipes.language_model import NextToken
from jaxdec.training.trainer import Precision, train
from tests.tiny_models import TINY

MODULE = Transformer(dataclasses.replace(TINY, num_layers=1))


class Repeats:
    """Texts of four tokens said three times."""

    def at(self, step):
        rng = np.random.default_rng(step % 4)
        return {"tokens": np.tile(rng.integers(0, 41, (4, 4)), (1, 3)).astype(np.int32)}


def test_it_is_the_next_token_loss():
    recipe = NextToken(MODULE)
    assert isinstance(recipe, Recipe)
    batch = {"tokens": jnp.asarray(Repeats().at(0)["tokens"])}
    weights = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 12)).astype(np.float32))

    @jax.jit
    def losses(key):
        params = recipe.init(key, batch)["params"]
        model = LanguageModel(MODULE, params)
        plain, _ = recipe.loss(params, {}, batch, key)
        weighted = recipe.evaluate(params, {}, {**batch, "weights": weights})["nats"]
        expected = [next_token_loss(model, Texts(batch["tokens"], used)) for used in (jnp.ones((4, 12)), weights)]
        return [plain, weighted], expected

    found, expected = losses(jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(found[0]) != pytest.approx(float(found[1]), rel=1e-6)


@pytest.mark.slow
def test_a_transformer_learns_in_both_precisions():
    for compute in ("float32", "bfloat16"):
        losses = []
        train(NextToken(MODULE), optax.adamw(1e-2), Repeats(), 60, key=jax.random.key(0), precision=Precision(compute),
              on_step=lambda step, metrics, losses=losses: losses.append(metrics["loss"]))  # fmt: skip
        assert losses[0] == pytest.approx(np.log(41), rel=0.05)
        assert losses[-1] < 1.5
