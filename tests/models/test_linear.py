"""The one matrix product, in all of its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.models import linear as module
from jaxdec.models.linear import linear


@pytest.mark.parametrize("rows", [1, 2, 5, module.FEW_ROWS, module.FEW_ROWS + 1])
@pytest.mark.parametrize("row_tile", [1, 4])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_numpy(rows, row_tile, dtype):
    rng = np.random.default_rng(rows)
    x, weight = (jnp.asarray(rng.normal(size=size), dtype) for size in [(rows, 24), (10, 24)])
    product = jax.jit(linear, static_argnums=2)(x, weight, row_tile)
    assert (product.shape, product.dtype) == ((rows, 10), jnp.float32)
    wide = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    np.testing.assert_allclose(product, wide, atol=1e-4, rtol=1e-4)


def test_leading_axes_are_rows():
    x, weight = jnp.ones((2, 3, 4, 5)), jnp.ones((7, 5))
    assert linear(x, weight).shape == (2, 3, 4, 7)


def test_inputs_are_rounded_to_the_type_of_the_weights():
    x = jnp.asarray([[1 + 2**-12]], jnp.float32)
    assert linear(x, jnp.ones((1, 1), jnp.bfloat16))[0, 0] == 1
    assert linear(x, jnp.ones((1, 1), jnp.float32))[0, 0] == 1 + 2**-12


@pytest.mark.parametrize("row_tile", [4, 8])
def test_a_row_rounds_alike_alone_and_among_a_tile(row_tile):
    """What the tile is for: to the last bit, for every position in the tile."""
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in [(row_tile, 576), (320, 576)])
    product = jax.jit(linear, static_argnums=2)
    together = product(x, weight, row_tile)
    for row in range(row_tile):
        np.testing.assert_array_equal(product(x[row : row + 1], weight, row_tile)[0], together[row])


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x, weight = jnp.full((3, 2), 1 / 3, jnp.float64), jnp.ones((2, 2), jnp.float64)
        assert linear(x, weight).dtype == jnp.float64
        np.testing.assert_allclose(linear(x, weight), 2 / 3, rtol=1e-15)


def test_few_rows_are_packed_without_a_remainder():
    assert [module.packed_rows(n) for n in (2, 4, 5, 9, 17, 32, 33, 96)] == [4, 4, 8, 16, 32, 32, 48, 96]
