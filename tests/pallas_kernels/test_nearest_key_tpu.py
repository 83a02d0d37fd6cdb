"""The TPU kernel of the nearest key on a processor: interpreted, watched for races and unwritten memory; and lowered."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.nearest_key import nearest_key, tpu
from pallas_kernels.nearest_key.reference import nearest_key as plain_nearest_key
from pallas_kernels.nearest_key.shapes import ODD, SHAPES, CodebookShape
from tests.pallas_kernels.test_nearest_key import assert_nearest, codebooks
from tests.pallas_kernels.test_tpu import interpreted, lower

SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)
SMALL = {**ODD, **{name: shape.scaled(codebooks=2, queries=20, keys=300) for name, shape in SHAPES.items()}}


def on_tpu():
    """A new function each time: jax keeps what it has compiled for an old one, with the blocks and the kernel of then."""
    return lambda *arrays: nearest_key(*arrays, implementation="tpu")


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 8 queries and 128 keys, so that small codebooks have several."""
    monkeypatch.setattr(tpu, "MOST_QUERIES", 8)
    monkeypatch.setattr(tpu, "MOST_KEYS", 128)
    tpu._nearest.clear_cache()
    yield
    tpu._nearest.clear_cache()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", [SLOW(name) for name in SMALL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_reference(name, dtype):
    arrays = codebooks(SMALL[name], dtype)
    assert_nearest(interpreted(on_tpu(), *arrays), arrays, 1e-5)


TIES = CodebookShape(2, 12, 200, 3)


@pytest.mark.usefixtures("small_blocks")
def test_ties_go_to_the_first_key_from_block_to_block():
    queries, keys, used = codebooks(TIES, integers=True)
    used = used.at[1].set(False)
    index, distance = interpreted(on_tpu(), queries, keys, used)
    expected = plain_nearest_key(queries, keys, used)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(distance, expected[1])
    assert (index[1] == -1).all()


WRONG = {
    "the last of equal keys": ("top > best[...]", "top >= best[...]"),
    "forgets which block it is": ("step * columns + first", "first"),
    "forgets the blocks before": ("step == 0", "step >= 0"),
    "forgets the length of keys": ("bias[0] + jax", "jax"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_found(monkeypatch, name):
    right, wrong = WRONG[name]
    source = inspect.getsource(tpu._kernel)
    assert right in source
    changed = dict(vars(tpu))
    exec(source.replace(right, wrong), changed)
    monkeypatch.setattr(tpu, "_kernel", changed["_kernel"])
    arrays = codebooks(TIES, integers=True)
    index, _ = interpreted(on_tpu(), *arrays)
    assert (np.asarray(index) != plain_nearest_key(*arrays)[0]).any()


@pytest.mark.parametrize("dtype", ["float32", SLOW("bfloat16")])
@pytest.mark.parametrize("name", [name if name == "dkvb, cifar10" else SLOW(name) for name in SHAPES])
def test_lowers_at_real_shapes(name, dtype):
    shape = SHAPES[name]
    arrays = [
        jax.ShapeDtypeStruct((shape.codebooks, count, shape.width), dtype) for count in (shape.queries, shape.keys)
    ]
    lower(on_tpu(), *arrays, jax.ShapeDtypeStruct((shape.codebooks, shape.keys), bool))


@pytest.mark.parametrize(
    ("dtype", "width", "reason"),
    [
        ("float16", 4, "tpu: takes float32 and bfloat16, got float16"),
        ("float32", 1025, "tpu: takes keys of at most 1024 numbers, got 1025"),
    ],
)
def test_refuses_with_the_reason(dtype, width, reason):
    array = jnp.zeros((1, 2, width), dtype)
    with pytest.raises(NotImplementedError, match=f"no implementation of nearest_key takes these arguments: {reason}"):
        on_tpu()(array, array)
