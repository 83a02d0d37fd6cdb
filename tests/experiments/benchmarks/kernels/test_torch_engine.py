"""Peers in PyTorch give what the reference gives. FlashInfer itself needs a GPU: here something stands in for it."""

import math
import sys
from types import SimpleNamespace

import pytest

from experiments.benchmarks.kernels import torch_engine
from experiments.benchmarks.kernels.shapes import KernelShape
from experiments.benchmarks.kernels.torch_engine import TorchEngine, missing_packages

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

WHOLE = KernelShape("whole_attention", 3, 24, 5, 4, 2, 16, "float32")


@pytest.fixture(scope="module")
def engine():
    threads = torch.get_num_threads()
    yield TorchEngine()
    torch.set_num_threads(threads)


def case(shape, **fields):
    return {**shape._asdict(), "seconds": 0.001, **fields}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("operation", ["whole_attention", "prefix_attention", "decode_attention"])
def test_attention_equals_the_reference(engine, monkeypatch, operation, dtype):
    monkeypatch.setattr(torch_engine, "num_sets", lambda nbytes: 2)
    shape = WHOLE._replace(operation=operation, suffix=5 if operation == "whole_attention" else 0, dtype=dtype)
    said = engine.warm_up("torch-sdpa", **case(shape))
    assert 0 < said["difference"] < (1e-5 if dtype == "float32" else 3e-2)
    assert said["note"] in ("enable_gqa", "heads folded into tokens")
    assert engine.measure("torch-sdpa", **case(shape))["microseconds"] > 0


def test_both_ways_are_the_same_attention(engine):
    arrays = engine._make("torch-sdpa", WHOLE, torch.Generator().manual_seed(0))
    one, other = (run(*arrays) for run in engine._ways("torch-sdpa").values())
    assert one.shape == (3, 4, 16)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def stand_in(base=2.0):
    def merge_state(one, one_lse, other, other_lse):
        weights = torch.softmax(math.log(base) * torch.stack([one_lse, other_lse]), 0)[..., None]
        return weights[0] * one + weights[1] * other, None

    return SimpleNamespace(merge_state=merge_state)


def test_flashinfer_counts_in_base_2(engine, monkeypatch):
    merge = KernelShape("merge", 3, 0, 0, 4, 2, 16, "float32")
    monkeypatch.setattr(torch_engine, "num_sets", lambda nbytes: 2)
    monkeypatch.setitem(sys.modules, "flashinfer", stand_in())
    assert engine.warm_up("flashinfer", **case(merge))["difference"] < 1e-5
    assert engine.measure("flashinfer", **case(merge))["microseconds"] > 0
    monkeypatch.setitem(sys.modules, "flashinfer", stand_in(base=math.e))
    assert engine.warm_up("flashinfer", **case(merge))["refused"].startswith("RuntimeError: wrong by ")


def test_what_fails_is_refused_with_the_reason(engine, monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(engine, "_make", out_of_memory)
    assert engine.warm_up("torch-sdpa", **case(WHOLE)) == {"refused": "OutOfMemoryError: CUDA out of memory."}


def test_the_faster_way_is_taken(engine, monkeypatch):
    monkeypatch.setattr(torch_engine, "num_sets", lambda nbytes: 1)
    for quick in (0, 1):
        times = [1e-6, 9.0, 1e-6, 9.0]  # a first run and a timed one of each
        times[2 * quick + 1] = 1.0
        clock = iter(times)
        monkeypatch.setattr(engine, "_wall_seconds", lambda call, count, clock=clock: next(clock))
        assert engine.warm_up("torch-sdpa", **case(WHOLE))["note"] == ("enable_gqa", "heads folded into tokens")[quick]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_what_it_is_and_what_is_not_there(engine):
    said = engine.describe()
    assert (said["engine"], said["clock"], said["platform"]) == ("torch", "host", "cpu")
    assert said["sides"]["torch-sdpa"] == ""
    assert said["sides"]["flashinfer"] in (
        "not installed: flashinfer (pip install flashinfer-python)",
        "runs on gpu, and torch sees none",
    )
    assert missing_packages() == []
