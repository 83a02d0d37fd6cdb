"""CRATE classifiers and masked auto-encoders: published sizes, what is read, what is hidden."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.models import crate_autoencoder, crate_classifier
from jaxdec.models.crate import CrateConfig
from jaxdec.models.crate_autoencoder import AutoencoderConfig, CrateAutoencoder, random_mask, reconstruction_loss
from jaxdec.models.crate_classifier import ClassifierConfig, CrateClassifier
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

LAYERS = CrateConfig(hidden_size=16, num_layers=2, num_heads=2)
CLASSIFIER = ClassifierConfig(LAYERS, image_size=(8, 8), patch_size=(2, 4), channels=1, num_classes=5)
AUTOENCODER = AutoencoderConfig(LAYERS, image_size=(8, 8), patch_size=(2, 4), channels=1)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 8, 8, 1)), jnp.float32)


def count(shapes) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("size", "expected"), [("tiny", 6_090_856), ("small", 13_116_328)])
def test_published_classifiers_have_the_published_number_of_parameters(size, expected):
    module = CrateClassifier(crate_classifier.published(size))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert count(jax.eval_shape(module.init, jax.random.key(0), images)) == expected


@pytest.mark.parametrize(("size", "millions"), [("small", 25.4), ("base", 44.6)])
def test_published_autoencoders_have_the_published_number_of_parameters(size, millions):
    """The paper counts the fixed positions and a map that nothing calls."""
    config = crate_autoencoder.published(size)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = count(jax.eval_shape(CrateAutoencoder(config).init, jax.random.key(0), images))
    width = config.layers.hidden_size
    assert round((found + 2 * 197 * width + width * width + width) / 1e6, 1) == millions


@pytest.mark.parametrize("alpha", [False, True])
def test_classifier(alpha):
    layers = dataclasses.replace(LAYERS, overcomplete=alpha, output_bias=not alpha)
    config = dataclasses.replace(CLASSIFIER, layers=layers)
    module = CrateClassifier(config)
    variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
    apply = jax.jit(module.apply)
    logits = np.asarray(apply(variables, IMAGES))
    assert logits.shape == (3, 5)
    changed = IMAGES.at[1, 7, 7].set(0.9 - IMAGES[1, 7, 7])  # every patch is read, of its own image alone
    again = np.asarray(apply(variables, changed))
    np.testing.assert_allclose(again[[0, 2]], logits[[0, 2]], rtol=1e-5, atol=1e-5)
    assert np.abs(again[1] - logits[1]).max() > 1e-4


def test_pooling_reads_all_tokens():
    shared = jax.jit(CrateClassifier(CLASSIFIER).init)(jax.random.key(0), IMAGES)
    by_class, by_mean = (
        CrateClassifier(dataclasses.replace(CLASSIFIER, pool=pool)).apply(shared, IMAGES) for pool in ("class", "mean")
    )
    assert np.abs(np.asarray(by_class) - np.asarray(by_mean)).max() > 1e-3


def test_hidden_patches_are_hidden():
    module = CrateAutoencoder(AUTOENCODER)
    masked = random_mask(jax.random.key(1), 3, 8, 0.5)
    params = jax.jit(module.init)(jax.random.key(0), IMAGES, masked)["params"]
    apply = jax.jit(module.apply)
    found = np.asarray(apply({"params": params}, IMAGES, masked).patches)
    assert found.shape == (3, 8, 8)
    row, column = divmod(int(np.flatnonzero(masked[0])[0]), 2)
    changed = IMAGES.at[0, 2 * row, 4 * column].add(1)
    np.testing.assert_array_equal(apply({"params": params}, changed, masked).patches, found)
    row, column = divmod(int(np.flatnonzero(~masked[0])[0]), 2)
    changed = IMAGES.at[0, 2 * row, 4 * column].add(1)
    assert np.abs(np.asarray(apply({"params": params}, changed, masked).patches) - found).max() > 1e-5


def test_the_loss_is_of_hidden_pixels():
    masked = jnp.asarray(random_mask(jax.random.key(1), 3, 8, 0.75))
    assert np.asarray(masked).sum(1).tolist() == [6, 6, 6]
    patches = jnp.zeros((3, 8, 8))
    for normalise in (False, True):
        gradient = jax.grad(reconstruction_loss)(jnp.asarray(IMAGES), patches, masked, (2, 4), normalise)
        cut = np.asarray(gradient).reshape(3, 4, 2, 2, 4).transpose(0, 1, 3, 2, 4).reshape(3, 8, 8)
        assert np.abs(cut[~np.asarray(masked)]).max() == 0
        assert np.abs(cut[np.asarray(masked)]).max() > 0
    plain = reconstruction_loss(jnp.asarray(IMAGES), patches, masked, (2, 4))
    cut = np.asarray(IMAGES).reshape(3, 4, 2, 2, 4).transpose(0, 1, 3, 2, 4).reshape(3, 8, 8)
    np.testing.assert_allclose(plain, (cut[np.asarray(masked)] ** 2).mean(), rtol=1e-5)


def test_masks_differ_between_images_and_keys():
    masks = np.concatenate([np.asarray(random_mask(jax.random.key(seed), 8, 16)) for seed in (0, 1)])
    assert (masks.sum(1) == 12).all()
    assert len(np.unique(masks, axis=0)) > 12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: dataclasses.replace(CLASSIFIER, image_size=(9, 8)),
            r"image_size \(9, 8\) must be a positive multiple",
        ),
        (lambda: dataclasses.replace(CLASSIFIER, num_classes=1), "num_classes must be at least 2, got 1"),
        (lambda: dataclasses.replace(CLASSIFIER, channels=0), "channels must be at least 1, got 0"),
        (lambda: dataclasses.replace(CLASSIFIER, pool="max"), "pool must be one of class, mean; got 'max'"),
        (lambda: crate_classifier.published("huge"), "size must be one of tiny, small, base, large; got 'huge'"),
        (lambda: crate_autoencoder.published("huge"), "size must be one of tiny, small, base, large; got 'huge'"),
        (
            lambda: dataclasses.replace(AUTOENCODER, layers=dataclasses.replace(LAYERS, overcomplete=True)),
            "layers.overcomplete must be False",
        ),
        (lambda: random_mask(jax.random.key(0), 1, 8, 1.0), r"ratio must be in \(0, 1\), got 1.0"),
        (lambda: random_mask(jax.random.key(0), 1, 8, 0.95), "ratio 0.95 of 8 patches hides 8"),
        (
            lambda: CrateClassifier(CLASSIFIER).init(jax.random.key(0), IMAGES[:, :4]),
            r"images must have shape \[B, 8, 8, 1\], got \[3, 4, 8, 1\]",
        ),
        (
            lambda: CrateAutoencoder(AUTOENCODER).init(jax.random.key(0), IMAGES[:, :4]),
            r"images must have shape \[B, 8, 8, 1\], got \[3, 4, 8, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
