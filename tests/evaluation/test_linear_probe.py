"""Probes: logistic regression against Newton's method in float64, votes by hand, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.evaluation.linear_probe import fit_linear_probe, nearest_neighbours

RNG = np.random.default_rng(0)
CLASSES, WIDTH = 3, 4
LABELS = np.repeat(np.arange(CLASSES), 20).astype(np.int32)
FEATURES = (RNG.normal(size=(60, WIDTH)) + 1.5 * RNG.normal(size=(CLASSES, WIDTH))[LABELS]).astype(np.float32) * 7 + 3


def newton(scaled, labels, l2):
    """The minimum in float64, bias last."""
    x = np.column_stack([scaled, np.ones(len(scaled))])
    width = x.shape[1]
    params, wanted = np.zeros((width, CLASSES)), np.eye(CLASSES)[labels]
    prior = l2 * np.diag([1.0] * (width - 1) + [0.0])
    for _ in range(30):
        scores = np.exp(x @ params - (x @ params).max(1, keepdims=True))
        p = scores / scores.sum(1, keepdims=True)
        gradient = x.T @ (p - wanted) + prior @ params
        hessian = np.zeros((CLASSES * width, CLASSES * width))
        for a in range(CLASSES):
            for b in range(CLASSES):
                block = x.T * (p[:, a] * ((a == b) - p[:, b])) @ x + (a == b) * prior
                hessian[a * width : (a + 1) * width, b * width : (b + 1) * width] = block
        step = np.linalg.lstsq(hessian, gradient.T.ravel(), rcond=1e-12)[0]  # a bias for all classes is free
        params -= step.reshape(CLASSES, width).T
    return params


@pytest.mark.parametrize("l2", [1.0, 0.05])
def test_the_fit_is_the_minimum(l2):
    probe = fit_linear_probe(jnp.asarray(FEATURES), jnp.asarray(LABELS), CLASSES, l2=l2, tolerance=1e-6)
    centred = FEATURES.astype(np.float64) - FEATURES.mean(0, dtype=np.float64)
    scaled = centred / np.sqrt((centred**2).mean())
    expected = newton(scaled, LABELS, l2)
    assert float(probe.scale) == pytest.approx(np.sqrt((centred**2).mean()), rel=1e-5)
    np.testing.assert_allclose(probe.weights, expected[:-1], atol=5e-3 * np.abs(expected).max())
    bias = np.asarray(probe.bias)
    np.testing.assert_allclose(bias - bias.mean(), expected[-1] - expected[-1].mean(), atol=1e-2)
    assert float(probe.gradient_norm) < 1e-4
    right = (np.argmax(scaled @ expected[:-1] + expected[-1], axis=1) == LABELS).mean()
    assert np.mean(np.asarray(probe.predict(jnp.asarray(FEATURES))) == LABELS) == pytest.approx(right)
    assert right > 0.8


def test_the_fit_does_not_depend_on_the_unit_or_origin_of_features():
    one = fit_linear_probe(jnp.asarray(FEATURES), jnp.asarray(LABELS), CLASSES)
    other = fit_linear_probe(jnp.asarray(FEATURES * 1e-3 - 5), jnp.asarray(LABELS), CLASSES)
    np.testing.assert_allclose(other.weights, one.weights, atol=2e-2)
    again = fit_linear_probe(jnp.asarray(FEATURES), jnp.asarray(LABELS), CLASSES)
    np.testing.assert_array_equal(again.weights, one.weights)


def test_neighbours_vote_by_similarity():
    known = RNG.normal(size=(30, 5)).astype(np.float32)
    labels = RNG.integers(0, 4, 30).astype(np.int32)
    asked = RNG.normal(size=(7, 5)).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, known)]
    cosines = unit[0].astype(np.float64) @ unit[1].T
    for k, temperature in ((1, 0.5), (9, 0.1), (9, 100.0)):
        expected = []
        for row in cosines:
            scores = np.zeros(4)
            for place in np.argsort(-row)[:k]:
                scores[labels[place]] += np.exp(row[place] / temperature)
            expected.append(scores.argmax())
        found = nearest_neighbours(
            jnp.asarray(known), jnp.asarray(labels), jnp.asarray(asked), 4, k=k, temperature=temperature
        )
        assert found.tolist() == expected


def test_bad_input():
    features, labels = jnp.ones((4, 2)), jnp.array([0, 1, 2, 1], jnp.int32)
    for arguments, options, message in [
        ((features, labels, 2), {}, r"labels must be in \[0, 2\), got 2"),
        ((features, labels - 1, 3), {}, r"labels must be in \[0, 3\), got -1"),
        ((features, labels, 1), {}, "num_classes must be at least 2, got 1"),
        ((features, labels[:3], 3), {}, r"of one number of images, got \(4, 2\) and \(3,\)"),
        ((features, labels, 3), {"l2": 0.0}, "l2 must be positive, got 0.0"),
        ((features, labels, 3), {"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ((features, labels, 3), {"tolerance": -1}, "tolerance must be at least 0, got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_linear_probe(*arguments, **options)
    for options, message in [({"k": 5}, r"k must be in \[1, 4\]"), ({"k": 1, "temperature": 0}, "temperature must be")]:
        with pytest.raises(ValueError, match=message):
            nearest_neighbours(features, labels, features, 3, **options)
