"""The MMCR recipe: what an update is made of, the momentum network, refusals; and that training approaches the bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.data.image_transforms import Gain, Noise
from jaxdec.data.views import IMAGENET, Pipeline, make_views
from jaxdec.models.encoders import EncoderProjector, MLPEncoder, Projector
from jaxdec.objectives.manifold_capacity import mmcr_loss
from jaxdec.training.recipes.mmcr import MMCR
from tests.quick_jit import quick_jit

MODEL = EncoderProjector(MLPEncoder((12,)), Projector((10, 6)))
RNG = np.random.default_rng(0)
BATCH = {"image": RNG.uniform(size=(8, 4, 4, 1)).astype(np.float32), "label": np.arange(8, dtype=np.int32) % 3}
GAINS = Pipeline((Gain(),))
OPTIMIZER = optax.sgd(0.05)


@functools.partial(quick_jit, static_argnums=0)
def begin(recipe, key):
    variables = recipe.init(key, BATCH)
    return variables.pop("params"), variables


@functools.partial(quick_jit, static_argnums=0)
def update(recipe, params, state, key):
    (loss, (state, metrics)), (gradients, of_state) = jax.value_and_grad(recipe.loss, (0, 1), has_aux=True)(
        params, state, BATCH, key
    )
    metrics["momentum_gradient"] = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(of_state.get("momentum", {})))
    changes, _ = OPTIMIZER.update(gradients, OPTIMIZER.init(params), params)
    params = optax.apply_updates(params, changes)
    return params, recipe.after_update(params, state), loss, metrics


def close(one, other, atol=1e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), one, other)


def test_a_loss_is_that_of_views_drawn_with_the_key():
    recipe, key = MMCR(MODEL, num_views=4, pipeline=GAINS, local_weight=0.2), jax.random.key(3)

    @quick_jit
    def both():
        variables = recipe.init(jax.random.key(0), BATCH)
        params = variables.pop("params")
        loss, (state, metrics) = recipe.loss(params, variables, BATCH, key)
        views = make_views(jnp.asarray(BATCH["image"]), key, 4, GAINS)
        (_, embeddings), changed = MODEL.apply(
            {"params": params, **variables}, views, train=True, mutable=["batch_stats"]
        )
        return (loss, state, metrics), (mmcr_loss(embeddings, 4, local_weight=0.2)[0], changed)

    (loss, state, metrics), (expected, changed) = both()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert set(state) == {"batch_stats"}
    close(state, dict(changed))
    assert {"global_nuclear_norm", "local_nuclear_norm", "bound", "gap", "zero_rows"} <= set(metrics)


def test_the_momentum_network_follows():
    recipe = MMCR(MODEL, pipeline=GAINS, tau=0.9)
    params, state = begin(recipe, jax.random.key(0))
    close(state["momentum"]["params"], params)
    after_params, after, _, metrics = update(recipe, params, state, jax.random.key(1))
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, after_params)
    close(after["momentum"]["params"], expected)
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(after_params))) > 1e-4
    close(after["momentum"]["batch_stats"], after["batch_stats"])  # both saw the same views with the same weights
    assert float(metrics["dropped_images"]) == 0
    assert float(metrics["momentum_gradient"]) == 0


@pytest.mark.slow
def test_without_inertia_the_momentum_network_is_the_online_one():
    recipe, plain = MMCR(MODEL, pipeline=GAINS, tau=0.0), MMCR(MODEL, pipeline=GAINS)
    loss_of = quick_jit(lambda params, state, key: plain.loss(params, state, BATCH, key)[0])
    params, state = begin(recipe, jax.random.key(0))
    for step in range(2):
        key = jax.random.key(step)
        alone = loss_of(params, {"batch_stats": state["batch_stats"]}, key)
        params, state, loss, _ = update(recipe, params, state, key)
        assert float(loss) == pytest.approx(float(alone), rel=1e-5)
        close(state["momentum"]["params"], params)


def test_evaluation_counts_neighbours_of_the_same_label():
    recipe = MMCR(MODEL, pipeline=GAINS, tau=0.9)
    params, state = begin(recipe, jax.random.key(0))
    twice = np.repeat(BATCH["image"][:4], 2, axis=0) + RNG.normal(size=(8, 1, 1, 1)).astype(np.float32) * 1e-3
    evaluate = quick_jit(recipe.evaluate)
    pairs = evaluate(params, state, {"image": twice, "label": np.arange(8, dtype=np.int32) // 2})
    assert float(pairs["neighbour_accuracy"]) == 1
    apart = evaluate(params, state, {"image": twice, "label": np.arange(8, dtype=np.int32) % 2})
    assert float(apart["neighbour_accuracy"]) == 0
    assert float(apart["loss"]) == pytest.approx(float(pairs["loss"]))
    assert float(apart["gap"]) > 0


@pytest.mark.slow
def test_training_approaches_the_bound_and_never_passes_it():
    recipe = MMCR(MODEL, pipeline=Pipeline((Gain(), Noise(0.2))))
    params, state = begin(recipe, jax.random.key(0))
    losses = []
    for step in range(400):
        params, state, loss, metrics = update(recipe, params, state, jax.random.key(step))
        losses.append(float(loss))
        assert losses[-1] >= float(metrics["bound"]) * (1 + 1e-5)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.3


def test_bad_input():
    for options, message in [
        ({"num_views": 0}, "num_views must be at least 1, got 0"),
        ({"num_views": 3, "pipeline": IMAGENET}, "num_views must be even where two pipelines take turns, got 3"),
        ({"local_weight": -1.0}, "local_weight must be at least 0, got -1.0"),
        ({"tau": 1.5}, r"tau must be in \[0, 1\], got 1.5"),
        ({"tau": -0.1}, r"tau must be in \[0, 1\], got -0.1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MMCR(MODEL, **options)
