"""Encoders: sizes of ResNet-50, what blocks begin as, batch statistics, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.models.encoders import Bottleneck, ConvEncoder, EncoderProjector, MLPEncoder, Projector, ResNet
from tests.quick_jit import quick_jit

RNG = np.random.default_rng(0)


def shapes(module, *inputs):
    """Output and variables, without computing either."""
    return jax.eval_shape(functools.partial(module.init_with_output, jax.random.key(0)), *inputs)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("small", "size", "params"),
    [
        (False, 224, 23_508_032),
        (True, 32, 23_500_352),
    ],  # torchvision's ResNet-50 without its classifier: 25557032 - 2049000
)
def test_resnet_50_has_the_published_size(small, size, params):
    features, variables = shapes(ResNet(small_images=small), jnp.ones((1, size, size, 3)))
    assert features.shape == (1, 2048)
    assert count(variables["params"]) == params
    assert count(variables["batch_stats"]) == 53_120


def test_the_published_projector():
    embedding, variables = shapes(Projector(), jnp.ones((2, 2048)))
    assert embedding.shape == (2, 512)
    assert count(variables["params"]) == 2048 * 8192 + 8192 * 8192 + 8192 * 512 + 4 * 8192
    assert all("bias" not in part for name, part in variables["params"].items() if name.startswith("Dense"))


def test_a_block_begins_as_its_shortcut():
    images = jnp.asarray(RNG.uniform(size=(2, 5, 5, 8)), jnp.float32)
    run = quick_jit(lambda zero: Bottleneck(2, zero_init_residual=zero).init_with_output(jax.random.key(0), images, True)[0],
                  static_argnums=0)  # fmt: skip
    np.testing.assert_allclose(run(True), images, atol=1e-6)
    assert np.abs(run(False) - images).max() > 0.1


def test_strides_and_stems():
    def places(module, size):
        """Height and width after the last stage, seen in the module's intermediate values."""
        _, state = jax.eval_shape(
            lambda x: module.init_with_output(jax.random.key(0), x, capture_intermediates=True),
            jnp.ones((1, size, size, 3)),
        )
        last = max(name for name in state["intermediates"] if name.startswith("Bottleneck"))
        return state["intermediates"][last]["__call__"][0].shape

    assert places(ResNet((1, 1, 1, 1), width=4), 64) == (1, 2, 2, 128)
    assert places(ResNet((1, 1, 1, 1), width=4, small_images=True), 32) == (1, 4, 4, 128)


def test_batch_statistics_are_kept_in_training_and_used_later():
    module = EncoderProjector(ConvEncoder((4, 6)), Projector((5, 3)))
    images = jnp.asarray(RNG.uniform(1, 2, size=(8, 6, 6, 1)), jnp.float32)
    variables = quick_jit(module.init)(jax.random.key(0), images)
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"encoder", "projector"}
    train = quick_jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))
    use = quick_jit(lambda v, x: module.apply(v, x))
    (features, embeddings), changed = train(variables, images)
    assert features.shape == (8, 6)
    assert embeddings.shape == (8, 3)
    alone, _ = use(variables, images)
    assert np.abs(alone - features).max() > 1e-2
    before, after = (tree["batch_stats"]["projector"]["BatchNorm_0"]["mean"] for tree in (variables, changed))
    hidden = features @ variables["params"]["projector"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * hidden.mean(0), atol=1e-5)
    settled = {**variables, **changed}
    for _ in range(150):
        settled.update(train(settled, images)[1])
    np.testing.assert_allclose(use(settled, images)[0], features, atol=1e-4)


def test_the_small_encoder_is_a_chain_of_maps():
    module = MLPEncoder((7, 4))
    images = jnp.asarray(RNG.normal(size=(3, 2, 2, 1)), jnp.float32)
    found, variables = quick_jit(module.init_with_output)(jax.random.key(0), images)
    x = np.asarray(images).reshape(3, 4)
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ variables["params"][layer]["kernel"] + variables["params"][layer]["bias"], 0)
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("module", [MLPEncoder(()), ConvEncoder((4, 0)), ResNet(())])
def test_bad_widths(module):
    with pytest.raises(ValueError, match="must be at least one positive number"):
        shapes(module, jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"widths must be at least one positive number, got \(4, -1\)"):
        shapes(Projector((4, -1)), jnp.ones((1, 8)))
