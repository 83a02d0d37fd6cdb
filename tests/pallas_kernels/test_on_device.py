"""The kernels on the devices that they are for, compared with XLA there. On a processor all of this is skipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import decode_attention, prefix_attention
from pallas_kernels.backends import UNTRIED, why_not
from pallas_kernels.block_sparse_attention.shapes import SHAPES as BLOCK_SPARSE_SHAPES
from pallas_kernels.decode_attention.shapes import SHAPES as DECODE_SHAPES
from pallas_kernels.prefix_attention.shapes import SHAPES as PREFIX_SHAPES
from pallas_kernels.sparse_decode_attention.shapes import SHAPES as SPARSE_DECODE_SHAPES
from tests.pallas_kernels.arrays import TOLERANCE, assert_states, decode_inputs, prefix_inputs, sparse, tree_mask

SPARSE = BLOCK_SPARSE_SHAPES | {f"pages {name}": shape for name, shape in SPARSE_DECODE_SHAPES.items()}


@pytest.fixture(params=["tpu", "hopper"])
def backend(request):
    """A backend, on its device."""
    reason = why_not(request.param)
    if reason and not (request.param in UNTRIED and reason.startswith("has not been run")):
        pytest.skip(f"{request.param} {reason}")
    return request.param


@pytest.mark.parametrize("name", PREFIX_SHAPES)
def test_prefix_attention(backend, name):
    arrays, groups = prefix_inputs(PREFIX_SHAPES[name], "bfloat16")
    got, expected = (prefix_attention(*arrays, **groups, implementation=one) for one in (backend, "xla"))
    assert_states(got, expected, TOLERANCE["bfloat16"])


@pytest.mark.parametrize("name", DECODE_SHAPES)
def test_decode_attention(backend, name):
    inputs = decode_inputs(DECODE_SHAPES[name], "bfloat16")
    visible = tree_mask(*inputs[0].shape[:2])
    got, expected = (decode_attention(*inputs, visible=visible, implementation=one) for one in (backend, "xla"))
    assert_states(got, expected, TOLERANCE["bfloat16"])


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_attention(backend, name):
    operation, arrays, blocks = sparse(SPARSE[name], "bfloat16")
    got, expected = (
        jax.jit(functools.partial(operation, **blocks, implementation=one))(*arrays) for one in (backend, "xla")
    )
    assert_states(got, expected, 4 * TOLERANCE["bfloat16"])


def test_a_row_does_not_depend_on_the_batch(backend):
    shape = DECODE_SHAPES["llama-3-8b"]
    q, k, v, lengths = decode_inputs(shape, "bfloat16")
    attend = jax.jit(functools.partial(decode_attention, implementation=backend))
    together = attend(q, k, v, lengths)
    for row in range(0, shape.batch, 5):
        alone = attend(*(jnp.asarray(array[row : row + 1]) for array in (q, k, v, lengths)))
        for one, all_rows in zip(alone, together):
            np.testing.assert_array_equal(one[0], all_rows[row])
