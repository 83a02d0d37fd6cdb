"""Cutting images into patches and back, and where patches lie."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.models.patches import patchify, sincos_positions, unpatchify


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_patches_go_together_again(rows, columns, down, across, channels):
    image = np.random.default_rng(0).normal(size=(2, rows * down, columns * across, channels)).astype(np.float32)
    patches = patchify(jnp.asarray(image), (down, across))
    assert patches.shape == (2, rows * columns, down * across * channels)
    # Patch (i, j), pixel (y, x), channel c lies where rows come before columns, and both before channels.
    np.testing.assert_array_equal(
        np.asarray(patches)[1, -1].reshape(down, across, channels), image[1, -down:, -across:, :]
    )
    np.testing.assert_array_equal(unpatchify(patches, image.shape[1:3], (down, across)), image)


def test_positions_are_told_apart_column_first():
    table = sincos_positions(8, 2, 3)
    assert table.shape == (7, 8)
    np.testing.assert_array_equal(table[0], 0)
    np.testing.assert_allclose(
        table[3], [np.sin(2), np.sin(2 / 100), np.cos(2), np.cos(2 / 100), 0, 0, 1, 1], rtol=1e-6
    )
    assert len(np.unique(table.round(6), axis=0)) == 7


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must be a positive multiple of patch_size"):
        patchify(jnp.zeros((1, 9, 8, 1)), (2, 2))
    with pytest.raises(ValueError, match="patches must be 16 of a multiple of 4"):
        unpatchify(jnp.zeros((1, 15, 4)), (8, 8), (2, 2))
    with pytest.raises(ValueError, match="width must be a positive multiple of 4"):
        sincos_positions(6, 2, 2)
