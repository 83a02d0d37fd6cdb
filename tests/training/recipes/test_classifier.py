"""The classifier's loss and accuracy by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.training.recipe import Recipe
from jaxdec.training.recipes.classifier import Classifier


class Rows(nn.Module):
    """Logits that lie in the image."""

    @nn.compact
    def __call__(self, image):
        return image * self.param("scale", nn.initializers.ones, ())


RNG = np.random.default_rng(0)
BATCH = {"image": RNG.normal(size=(6, 4)).astype(np.float32), "label": np.array([0, 1, 2, 3, 3, 1], np.int32)}


def test_cross_entropy_with_smoothing_and_accuracy():
    recipe = Classifier(Rows(), label_smoothing=0.2)
    assert isinstance(recipe, Recipe)
    variables = recipe.init(jax.random.key(0), BATCH)
    logits = 3.0 * BATCH["image"].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    hot = np.eye(4)[BATCH["label"]]
    params = {"scale": jnp.float32(3)}
    loss, (state, metrics) = jax.jit(recipe.loss)(params, {}, BATCH, jax.random.key(1))
    assert float(loss) == pytest.approx(-((0.8 * hot + 0.05) * log_probs).sum(-1).mean(), rel=1e-5)
    share = (logits.argmax(-1) == BATCH["label"]).mean()
    assert 0 < share < 1
    assert (state, float(metrics["accuracy"])) == ({}, pytest.approx(share))
    found = jax.jit(recipe.evaluate)(params, {}, BATCH)
    assert float(found["nats"]) == pytest.approx(-(hot * log_probs).sum(-1).mean(), rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(share)
    assert recipe.after_update(params, {}) == {}
    assert list(variables) == ["params"]


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        Classifier(Rows(), label_smoothing=1.0)

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, image):
            return nn.BatchNorm(use_running_average=True)(image)

    with pytest.raises(ValueError, match="module must have parameters alone, and has batch_stats as well"):
        Classifier(Normed()).init(jax.random.key(0), BATCH)
