"""What is measured, and how much work it is."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.benchmarks.kernels.inputs import make
from experiments.benchmarks.kernels.shapes import (
    HYDRAGEN_HEADS,
    LISTED,
    OPERATIONS,
    KernelShape,
    heads_of,
    layout_of,
    lists,
    shapes,
    work,
)
from pallas_kernels import kv_bytes_read

SIDES = ("jaxdec-xla", "copied-xla", "jax.nn-xla")


def shape_of(operation, batch=2, prefix=6, suffix=3, heads=(4, 2, 8), dtype="float32"):
    prefix = 0 if operation == "merge" else prefix
    return KernelShape(operation, batch, prefix, suffix if operation == "whole_attention" else 0, *heads, dtype)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(OPERATIONS[1:4]), st.sampled_from(SIDES), st.integers(1, 5), st.integers(1, 20), st.integers(1, 9),
    st.sampled_from(["float32", "bfloat16"]),
)  # fmt: skip
def test_bytes_are_those_of_the_arrays_and_of_the_result(operation, side, batch, prefix, suffix, dtype):
    shape = shape_of(operation, batch, prefix, suffix, dtype=dtype)
    arrays = jax.eval_shape(lambda key: make(key, layout_of(operation, side), shape), jax.random.key(0))
    inputs = sum(array.size * array.dtype.itemsize for array in arrays if array.ndim > 1)  # lengths are next to nothing
    numbers = batch * 4 * 8
    result = numbers * (4 if dtype == "float32" else 2) if side == "jax.nn-xla" else 4 * numbers + 4 * batch * 4
    assert work(shape, side).bytes == inputs + result
    assert work(shape, side).flops == 4 * numbers * (prefix + shape.suffix)  # whoever does it


def test_bytes_of_keys_are_those_of_the_formula():
    shape = shape_of("whole_attention", batch=5, prefix=100, suffix=7)
    sizes = {"num_kv_heads": 2, "head_dim": 8, "dtype": "float32"}
    saved = kv_bytes_read([(5, 107)], **sizes) - kv_bytes_read([(1, 100), (5, 7)], **sizes)
    assert work(shape, "copied-xla").bytes - work(shape, "jaxdec-xla").bytes == saved


@pytest.mark.parametrize("operation", LISTED)
@pytest.mark.parametrize(("prefix", "read"), [(288, 256), (1024, 256), (144, 512), (640, 128)])
def test_lists_are_spread_and_their_work_is_counted(operation, prefix, read):
    shape, size = KernelShape(operation, 2, prefix, 0, 4, 2, 8, "bfloat16", read), LISTED[operation]
    prompts = operation == "block_sparse_attention"
    index, count = lists(shape)
    cells, widest = 0, 0
    for block, (listed, used) in enumerate(zip(index, count)):
        own = block if prompts else -(-prefix // size) - 1
        listed = listed[:used].tolist()
        assert listed == sorted(set(listed), reverse=True), "once each"
        assert listed[0] == own
        assert listed[-1] == (0 if used > 1 else own)
        assert used == min(own + 1, read // size)
        slots = np.concatenate([size * one + np.arange(size) for one in listed])
        for token in range(block * size, min((block + 1) * size, prefix)) if prompts else [prefix - 1]:
            cells += (slots <= token).sum()
        widest = max(widest, used)
    assert index.shape[1] == widest
    assert work(shape, "jaxdec-xla").flops == 4 * 2 * 4 * 8 * cells
    queries, keys = 2 * 4 * (prefix if prompts else 1), 2 * 2 * 2 * (prefix if prompts else min(read, prefix))
    assert work(shape, "jaxdec-xla").bytes == queries * (8 * 2 + 8 * 4 + 4) + keys * 8 * 2
    arrays = jax.eval_shape(lambda key: make(key, layout_of(operation, "jaxdec-xla"), shape), jax.random.key(0))
    assert arrays[4].shape == (2, 4 if prompts else 2, *index.shape)


def test_a_merge_reads_its_parts_and_writes_one():
    shape = shape_of("merge", batch=3)
    arrays = jax.eval_shape(lambda key: make(key, "states", shape), jax.random.key(0))
    part = sum(array.size * 4 for array in arrays[0])
    assert work(shape, "jaxdec-xla").bytes == 3 * part
    assert work(shape, "flashinfer").bytes == 3 * part
    assert work(shape._replace(dtype="bfloat16"), "jaxdec-xla").bytes == 3 * part  # states are float32 here
    assert work(shape._replace(dtype="bfloat16"), "flashinfer").bytes < 3 * part


def test_layouts():
    assert layout_of("prefix_attention", "jaxdec-xla") == "shared"
    assert layout_of("whole_attention", "jaxdec-xla") == "split"
    for side in ("copied-xla", "jax.nn-cudnn", "torch-sdpa"):
        assert layout_of("whole_attention", side) == layout_of("prefix_attention", side) == "rows"
    assert {layout_of("decode_attention", side) for side in SIDES} == {"rows"}
    assert {layout_of("merge", side) for side in SIDES} == {"states"}
    assert [layout_of(operation, "jaxdec-tpu") for operation in LISTED] == ["lists", "pages"]


@pytest.mark.parametrize(
    ("platform", "smoke"), [("cpu", False), ("gpu", False), ("tpu", False), ("cpu", True), ("gpu", True)]
)
def test_shapes_are_all_different_and_name_themselves(platform, smoke):
    found = shapes(platform, smoke=smoke)
    assert len({shape.name for shape in found}) == len(found)
    assert [name for name in OPERATIONS if name in {shape.operation for shape in found}] == list(OPERATIONS)
    assert {shape.dtype for shape in found} == {"float32" if smoke or platform == "cpu" else "bfloat16"}
    for shape in found:
        assert KernelShape.of({**shape._asdict(), "seconds": 1.0}) == shape
        assert (shape.prefix > 0) == (shape.operation != "merge")
        assert (shape.suffix > 0) == (shape.operation == "whole_attention")
        assert (shape.read > 0) == (shape.operation in LISTED)


def test_shapes_are_those_of_real_models():
    cpu = {(s.batch, s.prefix, *s[4:7]) for s in shapes("cpu", smoke=False) if s.operation == "prefix_attention"}
    assert cpu == {(batch, 1024, 9, 3, 64) for batch in (1, 4, 16)}
    gpu = {(s.batch, s.prefix, s[4:7]) for s in shapes("gpu", smoke=False) if s.operation == "decode_attention"}
    heads = ((32, 8, 128), (8, 1, 128))
    assert (tuple(heads_of("llama-3-8b")), tuple(HYDRAGEN_HEADS)) == heads
    assert gpu == {(b, p, h) for b in (1, 16, 256, 1024) for p in (1024, 8192) for h in heads}


def test_names_and_small_shapes():
    shape = KernelShape("whole_attention", 256, 8192, 128, 32, 8, 128, "bfloat16")
    assert shape.name == "whole_attention_q32_kv8_d128_b256_p8192"
    assert shape.small() == shape._replace(batch=3, prefix=300, suffix=40)
    pages = KernelShape("sparse_decode_attention", 16, 8192, 0, 32, 8, 128, "bfloat16", 1024)
    assert pages.name == "sparse_decode_attention_q32_kv8_d128_b16_p8192_r1024"
    assert pages.small() == pages._replace(batch=3, prefix=288, read=256)
    assert shape_of("merge", batch=1).name == "merge_q4_kv2_d8_b1"
