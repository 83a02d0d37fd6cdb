"""How well a linear readout can tell manifolds apart: their capacity, and the radius and dimension that decide it.

Chung, Lee & Sompolinsky 2018 (Phys. Rev. X 8, 031003). A manifold is the set of responses to one class, or to the views of one
image. Its points are written relative to its centre, in units of the centre's length: ``S = (s, 1)``, ``s`` in R^D. Of P such
manifolds in N dimensions with random labels, a plane with margin ``kappa`` separates all for ``P / N < alpha``; in mean-field
theory, with ``T = (t, t_0)`` standard normal,

    1 / alpha = < F(T) >        F(T) = min_V { ||V - T||^2 :  V . S >= kappa for all S }

The minimum is at ``V = T + sum_m lambda_m S_m``, ``lambda >= 0``, and the *anchor point* is ``s~(T) = sum lambda_m s_m / sum
lambda_m``, the point of the hull that the plane rests on; where no constraint binds, it is the point that comes first,
``argmin t . s``. From anchor points

    R^2 = < ||s~(T)||^2 >        D = < (t . s~ / ||s~||)^2 >        (equations 28 and 29)

Because the last coordinate of every S is one, the margin shifts ``t_0``, and each minimum is a least-squares problem with
``lambda >= 0``, solved exactly by an active-set method (Lawson & Hanson 1974): ``F = ||S^T lambda||^2``, ``lambda`` that of the
least ``||S^T lambda + T - kappa e||``. Directions are drawn in the span of each manifold's points: others change nothing.

Centres are taken as they are, less their mean over manifolds: the theory is for centres in random directions, so look at
:func:`centroid_correlation`, too. Known in closed form: a point, ``alpha = 2`` at margin 0 (Gardner 1988), and balls
(:func:`ball_capacity`).
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.stats import chi, norm

QUANTILES = 4000
"""Points of the integral over the length of ``t``."""
NEGLIGIBLE = 1e-10
"""Directions whose extent is below this part of the widest are not spanned."""


class ManifoldGeometry(NamedTuple):
    """Of each manifold, ``float64[P]``.

    Attributes:
      capacity: ``alpha``, manifolds per dimension.
      radius: ``R``, in units of the centre's length.
      dimension: ``D``.
    """

    capacity: np.ndarray
    radius: np.ndarray
    dimension: np.ndarray

    @property
    def mean_capacity(self) -> float:
        """Capacity for a mixture of these manifolds: the harmonic mean."""
        return float(1 / np.mean(1 / self.capacity))

    @property
    def mean_radius(self) -> float:
        """Mean over manifolds."""
        return float(self.radius.mean())

    @property
    def mean_dimension(self) -> float:
        """Mean over manifolds."""
        return float(self.dimension.mean())


def manifold_geometry(
    manifolds: Sequence[np.ndarray], *, margin: float | int = 0.0, directions: int = 300, seed: int = 0
) -> ManifoldGeometry:
    """Estimate capacity, radius and dimension of each manifold.

    Args:
      manifolds: of each manifold its points, ``[M_p, N]``; at least two manifolds.
      margin: ``kappa``, at least 0.
      directions: draws of ``T`` for each manifold. The relative error of a capacity is about ``2 / sqrt(directions)`` for
        points and smaller for wide manifolds.
      seed: of these draws.

    Raises:
      ValueError: fewer than two manifolds, one without points, widths that differ, values that are not finite, a centre that
        is the mean of all centres, or an argument out of range.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must be at least 0 and finite, got {margin}")
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    found = []
    for number, points in enumerate(relative_points(manifolds)):
        rng = np.random.default_rng((seed, number))
        drawn = rng.standard_normal((directions, points.shape[1] + 1))
        found.append(_geometry(points, drawn, float(margin)))
    return ManifoldGeometry(*map(np.array, zip(*found)))


def _geometry(points: np.ndarray, drawn: np.ndarray, margin: float) -> tuple[float, float, float]:
    extended = np.column_stack([points, np.ones(len(points))])
    costs, radii, dimensions = [], [], []
    for t in drawn:
        cost, anchor = anchor_point(extended, t, margin)
        length = np.linalg.norm(anchor)
        costs.append(cost)
        radii.append(length**2)
        dimensions.append((t[:-1] @ anchor / length) ** 2 if length > 0 else 0.0)
    return 1 / float(np.mean(costs)), math.sqrt(np.mean(radii)), float(np.mean(dimensions))


def anchor_point(extended: np.ndarray, t: np.ndarray, margin: float | int) -> tuple[float, np.ndarray]:
    """``F(T)`` and the anchor point ``s~(T)``.

    Args:
      extended: ``S``, ``[M, D + 1]``, the last column one.
      t: ``T``, ``[D + 1]``.
      margin: ``kappa``.
    """
    target = -t
    target[-1] += margin
    weights, _ = nnls(extended.T, target)
    total = weights.sum()
    if total <= 0:
        first = np.argmin(extended[:, :-1] @ t[:-1])
        return 0.0, extended[first, :-1]
    moved = weights @ extended
    return float(moved @ moved), moved[:-1] / total


def relative_points(manifolds: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Points of each manifold relative to its centre, over the centre's length, in coordinates of their own span.

    Returns:
      ``[M_p, D_p]`` for each manifold, ``D_p`` the rank of its centred points.

    Raises:
      ValueError: see :func:`manifold_geometry`.
    """
    centres = centroids(manifolds)
    relative = []
    for number, (points, centre) in enumerate(zip(manifolds, centres - centres.mean(0))):
        length = np.linalg.norm(centre)
        if length <= NEGLIGIBLE * max(1e-300, float(np.abs(centres).max())):
            raise ValueError(f"manifolds[{number}] has the mean of all centres as its centre: it has no direction")
        left, extents, _ = np.linalg.svd(
            (np.asarray(points, np.float64) - centres[number]) / length, full_matrices=False
        )
        spanned = extents > NEGLIGIBLE * max(1.0, extents.max(initial=0.0))
        relative.append(left[:, spanned] * extents[spanned])
    return relative


def centroids(manifolds: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of each manifold's points, ``float64[P, N]``.

    Raises:
      ValueError: see :func:`manifold_geometry`.
    """
    if len(manifolds) < 2:
        raise ValueError(f"manifolds must be at least 2, got {len(manifolds)}")
    widths = {np.shape(points)[1] if np.ndim(points) == 2 else None for points in manifolds}
    if len(widths) != 1 or None in widths:
        raise ValueError(
            f"manifolds must be matrices of one width, got shapes {[np.shape(points) for points in manifolds]}"
        )
    for number, points in enumerate(manifolds):
        if len(points) < 1 or not np.isfinite(points).all():
            raise ValueError(
                f"manifolds[{number}] must have at least one point, all finite; got shape {np.shape(points)}"
            )
    return np.stack([np.asarray(points, np.float64).mean(0) for points in manifolds])


def centroid_correlation(manifolds: Sequence[np.ndarray]) -> float:
    """Mean absolute cosine of two different centres, the mean of all centres taken off; 0 for orthogonal ones.

    Raises:
      ValueError: see :func:`manifold_geometry`.
    """
    centres = centroids(manifolds)
    centres = centres - centres.mean(0)
    unit = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-300)
    cosines = np.abs(unit @ unit.T)
    return float(cosines[~np.eye(len(unit), dtype=bool)].mean())


def point_capacity(margin: float | int = 0.0) -> float:
    """Capacity of points, ``1 / alpha = (1 + kappa^2) Phi(kappa) + kappa phi(kappa)`` (Gardner 1988); 2 at margin 0."""
    return float(1 / _moment(-margin, math.inf, margin))


def ball_capacity(radius: float | int, dimension: float | int, margin: float | int = 0.0) -> float:
    """Capacity of D-dimensional balls of radius R (Chung et al. 2016, Phys. Rev. E 93, 060301).

    With ``t`` the length of D normal variables and ``q = kappa - t_0``, the cost is ``q^2 + t^2`` for ``q > t / R`` (the plane
    rests on the inside of the ball), ``(q + R t)^2 / (1 + R^2)`` for ``-R t < q < t / R``, else 0.

    Args:
      radius: in units of the centre's length, at least 0.
      dimension: positive; need not be whole.
      margin: ``kappa``.

    Raises:
      ValueError: an argument out of range.
    """
    if not 0 <= radius < math.inf:
        raise ValueError(f"radius must be at least 0 and finite, got {radius}")
    if not 0 < dimension < math.inf:
        raise ValueError(f"dimension must be positive and finite, got {dimension}")
    if radius == 0:
        return point_capacity(margin)
    length = _lengths(float(dimension))
    touching = length / radius - margin
    inside = _moment(touching, math.inf, margin) + length**2 * norm.sf(touching)
    edge = _moment(-radius * length - margin, touching, margin + radius * length) / (1 + radius**2)
    return float(1 / np.mean(inside + edge))


@functools.lru_cache(maxsize=64)
def _lengths(dimension: float) -> np.ndarray:
    """Lengths of ``dimension`` normal variables, at quantiles equally far apart."""
    return chi.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, dimension)


def _moment(low, high, offset):
    """``integral from low to high of (q + offset)^2 phi(q) dq``."""

    def primitive(q):
        finite = np.where(np.isfinite(q), q, 0.0)
        tail = np.where(np.isfinite(q), (finite + 2 * offset) * norm.pdf(finite), 0.0)
        return (1 + offset**2) * norm.cdf(q) - tail

    return primitive(high) - primitive(low)
