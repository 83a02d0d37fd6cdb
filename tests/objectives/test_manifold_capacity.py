"""The MMCR loss: against float64, against the authors' code (golden), its invariants, and what it refuses."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.objectives.manifold_capacity import local_nuclear_norms, mmcr_loss, unit_rows
from tests.quick_jit import quick_jit

GOLDEN = Path(__file__).with_name("golden_mmcr.json")
RNG = np.random.default_rng(0)
B, V, D = 6, 3, 5


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@functools.partial(quick_jit, static_argnums=(1, 2))
def loss_of(z, num_views=V, local_weight=0.0, momentum=None):
    return mmcr_loss(z, num_views, local_weight=local_weight, momentum_embeddings=momentum)


@functools.partial(quick_jit, static_argnums=(1, 2))
def gradient_of(z, num_views=V, local_weight=0.0, momentum=None):
    return jax.grad(lambda z: mmcr_loss(z, num_views, local_weight=local_weight, momentum_embeddings=momentum)[0])(z)


def reference(z, num_views, local_weight=0.0, momentum=None):
    """The equations in float64; singular values by NumPy."""
    z = np.asarray(z, np.float64)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    manifolds = unit.reshape(-1, num_views, z.shape[1])
    centres = manifolds.mean(1)
    if momentum is not None:
        centres = 0.5 * (centres + reference_centres(momentum, num_views))
        centres = centres[np.isfinite(centres).all(1)]
    spread = np.linalg.svd(centres, compute_uv=False).sum()
    if not local_weight:
        return -spread
    local = sum(np.linalg.svd(manifold, compute_uv=False).sum() for manifold in manifolds)
    return local_weight * local / len(manifolds) - spread


def reference_centres(z, num_views):
    z = np.asarray(z, np.float64)
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).reshape(-1, num_views, z.shape[1]).mean(1)


def harmonic_frame(count, features):
    """``count`` unit vectors whose Gram matrix of features is ``count / features`` times the identity."""
    angles = 2 * np.pi * np.outer(np.arange(count), np.arange(1, features // 2 + 1)) / count
    return (np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * (2 / features) ** 0.5).astype(np.float32)


@pytest.mark.parametrize("local_weight", [0.0, 0.3])
def test_it_is_what_the_equations_say(local_weight):
    z, momentum = 3 * draw(B * V, D), draw(B * V, D)
    assert float(loss_of(z, V, local_weight)[0]) == pytest.approx(reference(z, V, local_weight), rel=1e-5)
    found, metrics = loss_of(z, V, local_weight, momentum)
    assert float(found) == pytest.approx(reference(z, V, local_weight, momentum), rel=1e-5)
    assert float(metrics["dropped_images"]) == 0
    assert ("local_nuclear_norm" in metrics) == (local_weight > 0)


@pytest.mark.parametrize("local_weight", [0.0, 0.3])
def test_the_gradient_is_the_slope(local_weight):
    z, change = draw(B * V, D), draw(B * V, D)
    above, below = (reference(z + sign * 1e-5 * change.astype(np.float64), V, local_weight) for sign in (1, -1))
    slope = float(np.vdot(gradient_of(z, V, local_weight), change))
    assert (above - below) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_the_gradient_is_the_polar_factor_less_its_radial_part():
    z = draw(B * V, D)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    left, _, right = np.linalg.svd(unit.reshape(B, V, D).mean(1).astype(np.float64), full_matrices=False)
    pull = -np.repeat(left @ right, V, axis=0) / V
    expected = (pull - (pull * unit).sum(1, keepdims=True) * unit) / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(gradient_of(z), expected, atol=1e-5)


def test_it_is_what_the_authors_code_says():
    golden = json.loads(GOLDEN.read_text())
    for case in golden["cases"]:
        z, views, weight = jnp.asarray(case["z"], jnp.float32), case["num_views"], case["local_weight"]
        momentum = None if case["momentum"] is None else jnp.asarray(case["momentum"], jnp.float32)
        loss, metrics = loss_of(z, views, weight, momentum)
        assert float(loss) == pytest.approx(case["loss"], rel=2e-6), case["name"]
        assert float(metrics["global_nuclear_norm"]) == pytest.approx(case["global"], rel=2e-6)
        np.testing.assert_allclose(gradient_of(z, views, weight, momentum), case["gradient"], atol=2e-6)


@pytest.mark.parametrize(("images", "features"), [(8, 16), (16, 8), (32, 4)])
def test_the_bound_holds_and_is_met(images, features):
    best = np.eye(features, dtype=np.float32)[:images] if images <= features else harmonic_frame(images, features)
    loss, metrics = loss_of(np.repeat(best, 2, axis=0), 2)
    bound = -((images * min(images, features)) ** 0.5)
    assert float(loss) == pytest.approx(bound, rel=1e-5)
    assert float(metrics["bound"]) == pytest.approx(bound, rel=1e-6)
    assert float(metrics["gap"]) == pytest.approx(0, abs=1e-4)
    for spread in (0.0, 0.5):
        z = draw(2 * images, features) + spread * draw(1, features)
        loss, metrics = loss_of(z, 2)
        assert float(loss) > bound
        assert float(metrics["gap"]) == pytest.approx(float(loss) - bound, rel=1e-4)


def test_total_collapse_is_far_from_the_bound():
    z = np.tile(draw(1, D), (B * V, 1))
    assert float(loss_of(z)[0]) == pytest.approx(-(B**0.5), rel=1e-5)
    assert np.isfinite(gradient_of(z)).all()


def test_local_norms_lie_between_agreeing_and_orthogonal_views():
    same, apart = np.tile(draw(1, 8), (5, 1)), np.eye(8, dtype=np.float32)[:5]
    local = quick_jit(lambda z: local_nuclear_norms(unit_rows(z)[0], 5))
    np.testing.assert_allclose(local(np.concatenate([same, apart])), [5**0.5, 5], rtol=1e-5)
    norms = local(draw(10, 8))
    assert ((norms > 5**0.5) & (norms < 5)).all()


def test_it_sees_directions_and_not_order_or_length():
    z = draw(B * V, D)
    before = float(loss_of(z, V, 0.3)[0])
    turned = z @ np.linalg.qr(RNG.normal(size=(D, D)))[0].astype(np.float32)
    longer = z * RNG.uniform(0.1, 10, (B * V, 1)).astype(np.float32)
    images = z.reshape(B, V, D)[RNG.permutation(B)].reshape(B * V, D)
    views = np.stack([image[RNG.permutation(V)] for image in z.reshape(B, V, D)]).reshape(B * V, D)
    for same in (turned, longer, images, views):
        assert float(loss_of(same, V, 0.3)[0]) == pytest.approx(before, rel=1e-5)
    transposed = z.reshape(B, V, D).swapaxes(0, 1).reshape(B * V, D)  # views of an image no longer adjacent
    assert abs(float(loss_of(transposed, V, 0.3)[0]) - before) > 1e-2


def test_one_view_only_spreads():
    z = draw(B, D)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    loss, metrics = loss_of(z, 1, 0.5)
    assert float(metrics["local_nuclear_norm"]) == pytest.approx(1, rel=1e-6)
    assert float(loss) == pytest.approx(0.5 - np.linalg.svd(unit)[1].sum(), rel=1e-5)


def test_views_that_cancel_add_nothing():
    z = draw(B, V, D)
    angles = 2 * np.pi * np.arange(V) / V
    z[0] = 0
    z[0, :, 0], z[0, :, 1] = np.cos(angles), np.sin(angles)
    others = reference(z[1:].reshape(-1, D), V)
    assert float(loss_of(z.reshape(-1, D))[0]) == pytest.approx(others, rel=1e-5)


def test_rows_without_a_direction_are_counted_and_do_no_harm():
    z = draw(B * V, D)
    z[4] = 0
    loss, metrics = loss_of(z, V, 0.3)
    assert float(metrics["zero_rows"]) == 1
    gradient = gradient_of(z, V, 0.3)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert not gradient[4].any()


def test_the_momentum_network_gets_no_gradient():
    z, momentum = draw(B * V, D), draw(B * V, D)
    gradient = quick_jit(jax.grad(lambda m, z: mmcr_loss(z, V, momentum_embeddings=m)[0]))(momentum, z)
    assert not gradient.any()
    alone = float(loss_of(z)[0])
    assert float(loss_of(z, V, 0.0, z)[0]) == pytest.approx(alone, rel=1e-6)


def test_images_that_are_not_finite_are_dropped_with_momentum_alone():
    z, momentum = draw(B * V, D), draw(B * V, D)
    broken, late = z.copy(), momentum.copy()
    broken[1, 2] = np.nan
    late[V * 4, 0] = np.inf
    loss, metrics = loss_of(broken, V, 0.0, late)
    kept = np.repeat(np.isin(np.arange(B), (0, 4), invert=True), V)
    assert float(loss) == pytest.approx(reference(z[kept], V, 0.0, momentum[kept]), rel=1e-5)
    assert float(metrics["dropped_images"]) == 2
    assert float(metrics["bound"]) == pytest.approx(-4, rel=1e-6)
    gradient = gradient_of(broken, V, 0.0, late)
    assert np.isfinite(gradient).all()
    assert not gradient[~kept].any()
    assert np.isnan(loss_of(broken)[0])


def test_bad_input():
    z = jnp.ones((6, 4))
    cases = [
        ((z, 0), {}, "num_views must be at least 1, got 0"),
        ((z, 4), {}, "embeddings has 6 rows, which 4 views per image do not divide"),
        ((z, 6), {}, "at least 2 images, got 1"),
        ((jnp.ones((6, 0)), 2), {}, "at least one feature"),
        ((z, 2), {"local_weight": -0.1}, "local_weight must be at least 0 and finite, got -0.1"),
        ((z, 2), {"local_weight": float("nan")}, "local_weight must be at least 0 and finite, got nan"),
        ((z, 2), {"momentum_embeddings": jnp.ones((4, 4))}, r"the shape of embeddings, \(6, 4\); got \(4, 4\)"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            mmcr_loss(*arguments, **options)
