"""Recipes of images without labels: masked auto-encoding and self-distillation of CRATE."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_autoencoder import AutoencoderConfig, CrateAutoencoder
from jaxdec.models.crate_classifier import ClassifierConfig
from jaxdec.training.recipe import Recipe
from jaxdec.training.recipes.masked_autoencoder import MaskedAutoencoder
from jaxdec.training.recipes.self_distillation import DistilledEncoder, SelfDistillation
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

LAYERS = CrateConfig(hidden_size=8, num_layers=1, num_heads=2)
AUTOENCODER = MaskedAutoencoder(CrateAutoencoder(AutoencoderConfig(LAYERS, (8, 8), (2, 2), 1)))
ENCODER = ClassifierConfig(LAYERS, (8, 8), (4, 4), 1, 2)
DISTILLED = SelfDistillation(DistilledEncoder(ENCODER, outputs=12, hidden=8, bottleneck=4), tau=0.75)
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).uniform(size=(6, 8, 8, 1)), jnp.float32),
    "label": jnp.asarray([0, 0, 1, 1, 2, 2], jnp.int32),
}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(AUTOENCODER, id="autoencoder"),
        pytest.param(DISTILLED, id="distilled", marks=pytest.mark.slow),
    ],
)
def test_training_lowers_the_loss_on_a_batch(recipe):
    """And a recipe does what the trainer asks for: shapes that do not change, metrics that are scalars."""
    assert isinstance(recipe, Recipe)
    variables = jax.jit(recipe.init)(jax.random.key(0), BATCH)
    params = variables.pop("params")
    optimizer = optax.adam(3e-3)

    @jax.jit
    def update(params, opt_state):  # the state stays, or the target would move
        found, gradients = jax.value_and_grad(recipe.loss, has_aux=True)(params, variables, BATCH, jax.random.key(1))
        loss, (state, metrics) = found
        changes, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, changes)
        return params, opt_state, recipe.after_update(params, state), loss, metrics

    losses, opt_state = [], optimizer.init(params)
    for _ in range(20):
        params, opt_state, state, loss, metrics = update(params, opt_state)
        losses.append(float(loss))
    assert losses[-1] < 0.98 * losses[0]
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, variables)
    assert all(np.shape(value) == () for value in metrics.values())
    judged = jax.jit(recipe.evaluate)(params, state, BATCH)
    assert all(np.isfinite(value) for value in judged.values())


def test_teacher_and_center_follow():
    variables = jax.jit(DISTILLED.init)(jax.random.key(0), BATCH)
    params = variables.pop("params")
    np.testing.assert_array_equal(variables["teacher"]["prototypes"], params["prototypes"])
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    after = DISTILLED.after_update(moved, variables)
    np.testing.assert_allclose(after["teacher"]["prototypes"], params["prototypes"] + 0.25, rtol=1e-5)
    _, (state, metrics) = jax.jit(DISTILLED.loss)(params, variables, BATCH, jax.random.key(0))
    assert np.abs(np.asarray(state["center"])).max() > 0
    assert 0 < float(metrics["entropy"]) <= np.log(12) + 1e-5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dataclasses.replace(AUTOENCODER, mask_ratio=1.0), r"ratio must be in \(0, 1\), got 1.0"),
        (lambda: dataclasses.replace(DISTILLED, num_views=1), "num_views must be at least 2, got 1"),
        (lambda: dataclasses.replace(DISTILLED, tau=1.5), r"tau must be in \[0, 1\], got 1.5"),
        (
            lambda: dataclasses.replace(DISTILLED, teacher_temperature=0.0),
            "teacher_temperature must be positive, got 0.0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
