"""Capacity, radius and dimension against closed forms and against a general solver, and what is refused."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from jaxdec.evaluation.manifold_geometry import (
    anchor_point,
    ball_capacity,
    centroid_correlation,
    manifold_geometry,
    point_capacity,
    relative_points,
)

RNG = np.random.default_rng(0)


def normal(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def around(relative, centres):
    """Manifolds of one shape around two or more centres of length 3, in directions of their own."""
    count, width = len(centres), relative.shape[1]
    manifolds = []
    for number, centre in enumerate(centres):
        points = np.zeros((len(relative), count + count * width))
        points[:, :count] = centre
        points[:, count + number * width : count + (number + 1) * width] = 3 * relative
        manifolds.append(points)
    return manifolds


CENTRES = 3 * np.array([[1.0, 0.0], [-1.0, 0.0]])
"""Their mean is 0."""


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_capacity_of_points(margin):
    exact = 1 / quad(lambda t: normal(t) * (t + margin) ** 2, -margin, 12)[0]
    assert point_capacity(margin) == pytest.approx(exact, rel=1e-6)
    assert point_capacity() == pytest.approx(2)
    found = manifold_geometry(around(np.zeros((1, 1)), CENTRES), margin=margin, directions=4000)
    np.testing.assert_allclose(found.capacity, exact, rtol=0.1)
    assert found.radius.tolist() == found.dimension.tolist() == [0, 0]


@pytest.mark.parametrize(("radius", "margin"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.5)])
def test_capacity_of_balls_in_one_dimension_by_its_integral(radius, margin):
    """A ball of one dimension is a segment: the cost by minimising over its two ends' constraints, integrated on the plane."""

    def cost(t, t0):
        ends = np.array([[radius, 1.0], [-radius, 1.0]])
        point = np.array([t, t0])
        slack = margin - ends @ point
        if (slack <= 0).all():
            return 0.0
        candidates = [np.linalg.solve(ends, [margin, margin])]
        candidates += [point + gap * end / (end @ end) for gap, end in zip(slack, ends) if gap > 0]
        return min(((v - point) ** 2).sum() for v in candidates if (ends @ v >= margin - 1e-9).all())

    step = 0.1
    grid = [(t, t0) for t in np.arange(step / 2, 6, step) for t0 in np.arange(-6 + step / 2, 6, step)]
    exact = 2 * step**2 * sum(cost(t, t0) * normal(t) * normal(t0) for t, t0 in grid)
    assert ball_capacity(radius, 1, margin) == pytest.approx(1 / exact, rel=5e-3)


@pytest.mark.parametrize("dimension", [1, 2])
def test_geometry_of_balls(dimension):
    """Segments, and discs that are polygons of 40 corners: radii 0.6 and 1.5."""
    for radius in (0.6, 1.5):
        angles = np.arange(40) * 2 * np.pi / 40
        shape = np.array([[1.0], [-1.0]]) if dimension == 1 else np.stack([np.cos(angles), np.sin(angles)], axis=1)
        found = manifold_geometry(around(radius * shape, CENTRES), directions=1500)
        assert found.mean_capacity == pytest.approx(ball_capacity(radius, dimension), rel=0.08)
        assert found.mean_dimension == pytest.approx(dimension, rel=0.1)
        assert 0.7 * radius < found.mean_radius <= radius * (1 + 1e-9)


def test_balls_become_points_and_what_is_wide_holds_fewer():
    assert ball_capacity(0, 5) == pytest.approx(2)
    assert ball_capacity(1e-4, 3) == pytest.approx(2, rel=1e-2)
    capacities = [[ball_capacity(radius, dimension) for radius in (0.2, 1.0, 3.0)] for dimension in (1, 5, 20)]
    assert (np.diff(capacities, axis=0) < 0).all()
    assert (np.diff(capacities, axis=1) < 0).all()
    wide = ball_capacity(200.0, 20)  # a subspace of 20 dimensions leaves 1 / alpha = 1 / 2 + 20
    assert 1 / wide == pytest.approx(20.5, rel=2e-2)


def test_anchor_points_are_those_of_a_general_solver():
    extended = np.column_stack([RNG.normal(size=(6, 3)), np.ones(6)])
    bound = 0
    for t in [*RNG.normal(size=(12, 4)), np.array([0.1, -0.2, 0.1, 9.0])]:
        cost, anchor = anchor_point(extended, t, 0.2)
        constraints = {"type": "ineq", "fun": lambda v: extended @ v - 0.2, "jac": lambda v: extended}
        solved = minimize(lambda v, t=t: ((v - t) ** 2).sum(), np.array([0.0, 0.0, 0.0, 1.0]), constraints=constraints,
                          jac=lambda v, t=t: 2 * (v - t), method="SLSQP", options={"maxiter": 200, "ftol": 1e-12})  # fmt: skip
        assert cost == pytest.approx(solved.fun, abs=1e-6)
        if cost > 0:
            bound += 1
            moved = solved.x - t
            np.testing.assert_allclose(anchor, moved[:3] / moved[3], atol=1e-4)
        else:
            assert anchor.tolist() == extended[np.argmin(extended[:, :3] @ t[:3]), :3].tolist()
    assert 0 < bound < 13


def test_geometry_is_in_units_of_the_centre_and_in_any_coordinates():
    manifolds = [RNG.normal(size=(7, 12)) + 4 * RNG.normal(size=12) for _ in range(3)]
    before = manifold_geometry(manifolds, directions=40)
    turn = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    after = manifold_geometry([5 * points @ turn + 1 for points in manifolds], directions=40)
    # Coordinates within a manifold's span are free up to signs, so that draws differ: compare what does not depend on them.
    for one, other in zip(relative_points(manifolds), relative_points([5 * p @ turn + 1 for p in manifolds])):
        assert one.shape == (7, 6)
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-9)
    np.testing.assert_allclose(after.capacity, before.capacity, rtol=0.4)
    again = manifold_geometry(manifolds, directions=40)
    np.testing.assert_array_equal(again.capacity, before.capacity)


def test_correlation_of_centres():
    assert centroid_correlation(around(np.zeros((1, 1)), CENTRES)) == pytest.approx(1)
    cross = np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]])
    assert centroid_correlation([row[None] for row in cross]) == pytest.approx(1 / 3)  # two of six pairs are opposite


def test_bad_input():
    good = [RNG.normal(size=(3, 4)) for _ in range(2)]
    for manifolds, options, message in [
        (good[:1], {}, "manifolds must be at least 2, got 1"),
        ([good[0], np.ones((3, 5))], {}, "manifolds must be matrices of one width"),
        ([good[0], np.ones(4)], {}, "manifolds must be matrices of one width"),
        ([good[0], np.ones((0, 4))], {}, r"manifolds\[1\] must have at least one point"),
        ([good[0], np.full((2, 4), np.nan)], {}, r"manifolds\[1\] must have at least one point, all finite"),
        ([good[0], good[0]], {}, r"manifolds\[0\] has the mean of all centres as its centre"),
        (good, {"margin": -1}, "margin must be at least 0 and finite, got -1"),
        (good, {"directions": 0}, "directions must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            manifold_geometry(manifolds, **options)
    with pytest.raises(ValueError, match="radius must be at least 0 and finite, got -1"):
        ball_capacity(-1, 3)
    with pytest.raises(ValueError, match="dimension must be positive and finite, got 0"):
        ball_capacity(1, 0)
