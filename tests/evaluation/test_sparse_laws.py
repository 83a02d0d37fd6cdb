"""The scaling law and the largest safe compression, on data whose law is known."""

import itertools

import numpy as np
import pytest

from jaxdec.evaluation.sparse_laws import (
    Cell,
    ScalingLaw,
    below_p_value,
    fit_scaling_law,
    largest_safe_compression,
    logit,
)

LAW = ScalingLaw(-16.9, {"qa": 0.0, "needle": 1.4, "track": -1.6}, 1.31, -1.15, -1.0, 1.0)


def cells(law=LAW, noise=0.0, samples=10**9, seed=0):
    rng = np.random.default_rng(seed)
    grid = itertools.product(law.task, (7e9, 14e9, 72e9), (16384, 32768, 131072), (1, 2, 5, 20))
    found = []
    for task, params, length, compression in grid:
        at = law.accuracy(task, params, length, compression)
        odds = np.log(at / (1 - at)) + noise * rng.normal()
        found.append(Cell(task, params, length, compression, float(1 / (1 + np.exp(-odds))), samples))
    return found


def coefficients(law):
    return [law.intercept, *law.task.values(), law.params, law.length, law.compression]


def test_coefficients_come_back():
    found = fit_scaling_law(cells())
    assert coefficients(found) == pytest.approx(coefficients(LAW), abs=1e-6)
    assert found.r_squared == pytest.approx(1)
    other = fit_scaling_law(cells(), reference="track")
    assert other.task == pytest.approx({"qa": 1.6, "needle": 3.0, "track": 0.0})
    assert other.intercept == pytest.approx(LAW.intercept - 1.6)
    noisy = fit_scaling_law(cells(noise=0.5))
    assert coefficients(noisy)[1:] == pytest.approx(coefficients(LAW)[1:], abs=0.4)
    assert 0.7 < noisy.r_squared < 1


def test_laws_of_the_paper_give_believable_accuracies():
    assert LAW.accuracy("qa", 7e9, 16384, 1) == pytest.approx(0.83, abs=0.02)
    assert LAW.accuracy("qa", 72e9, 131072, 20) == pytest.approx(0.33, abs=0.03)
    for cell in cells():
        assert 0 < cell.accuracy < 1
        for longer in (LAW.accuracy(cell.task, cell.params, 2 * cell.length, cell.compression),
                       LAW.accuracy(cell.task, cell.params, cell.length, 2 * cell.compression)):  # fmt: skip
            assert longer < cell.accuracy
        assert LAW.accuracy(cell.task, 2 * cell.params, cell.length, cell.compression) > cell.accuracy
    with pytest.raises(ValueError, match="task must be one of qa, needle, track; got 'sort'"):
        LAW.accuracy("sort", 7e9, 16384, 1)


def test_accuracies_of_0_and_1_are_clipped():
    assert logit(1.0, 50) == pytest.approx(np.log(99))
    assert logit(0.0, 50) == pytest.approx(-logit(1.0, 50))
    assert logit(0.25, 50) == pytest.approx(np.log(1 / 3))
    ends = [cell._replace(accuracy=round(cell.accuracy), samples=50) for cell in cells()]
    assert np.isfinite(coefficients(fit_scaling_law(ends))).all()
    with pytest.raises(ValueError, match=r"accuracy must be in \[0, 1\], got 1.5"):
        logit(1.5, 50)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        logit(0.5, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda found: [], "cells is empty"),
        (lambda found: [cell for cell in found if cell.params == 7e9], "do not determine the law"),
        (lambda found: [cell for cell in found if cell.compression == 1], "do not determine the law"),
        (lambda found: [found[0]._replace(params=0), *found], "params and length must be positive, got 0 and"),
        (lambda found: [found[0]._replace(compression=0.5), *found], "compression must be at least 1, got 0.5"),
    ],
)
def test_cells_that_determine_no_law(changed, message):
    with pytest.raises(ValueError, match=message):
        fit_scaling_law(changed(cells()))


def test_reference_must_be_a_task():
    with pytest.raises(ValueError, match="reference must be one of qa, needle, track; got 'sort'"):
        fit_scaling_law(cells(), reference="sort")


def drawn(level, count=200, seed=0):
    """Scores of samples that are easier or harder for all alike: at a higher level the same ones are right, and more."""
    return (np.random.default_rng(seed).random(count) < level).astype(float)


def test_losses_are_found_where_they_are():
    dense = drawn(0.8)
    sparse = {2.0: drawn(0.8), 4.0: drawn(0.79), 8.0: drawn(0.6), 16.0: drawn(0.8)}
    assert largest_safe_compression(dense, sparse) == 4  # 16 is as good as dense, but 8 is not
    assert largest_safe_compression(dense, {2: drawn(0.3)}) == 1
    assert largest_safe_compression(dense, {2: dense, 16: drawn(0.9)}) == 16
    assert below_p_value(dense, dense) == 1
    assert below_p_value(dense, drawn(0.6)) < 0.001
    assert below_p_value(drawn(0.6), dense) == 1


def test_pairing_finds_small_losses():
    """Samples differ a lot from one another, and sparse is a little worse on each."""
    rng = np.random.default_rng(1)
    dense = rng.normal(0, 1, 100)
    assert below_p_value(dense, dense - 0.05 + rng.normal(0, 0.05, 100)) < 0.01


@pytest.mark.slow
def test_level_is_kept_where_nothing_is_lost():
    """Of two that are equally good on average, one is called worse about as often as the level says, or less."""
    found = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        dense, sparse = rng.random((2, 60)) < 0.7
        found.append(below_p_value(dense.astype(float), sparse.astype(float), resamples=400) <= 0.05)
    assert 0.01 < np.mean(found) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"significance": 0.0}, r"significance must be in \(0, 1\), got 0.0"),
        ({"sparse": {}}, "sparse is empty"),
        ({"sparse": {0.5: [1.0]}}, "sparse holds compression 0.5: all must be at least 1"),
        ({"sparse": {2.0: [1.0, 0.0]}}, r"same samples, got shapes \(1,\) and \(2,\)"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        largest_safe_compression(**{"dense": [1.0], "sparse": {2.0: [1.0]}, **arguments})
