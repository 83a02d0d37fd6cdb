"""Busy time is read from a trace: streams of a GPU united, programs of other accelerators, nothing of the host."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.kernels import device_time
from experiments.benchmarks.kernels.device_time import busy_nanoseconds, device_seconds, united, wall_seconds


def plane(name, **lines):
    def event(begin, end):
        return SimpleNamespace(start_ns=float(begin), duration_ns=float(end - begin))

    named = {line.replace("_", " "): events for line, events in lines.items()}
    return SimpleNamespace(
        name=name,
        lines=[SimpleNamespace(name=line, events=[event(*pair) for pair in events]) for line, events in named.items()],
    )


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10))))
def test_a_union_counts_every_moment_once(pairs):
    intervals = [(begin, begin + length) for begin, length in pairs]
    moments = {moment for begin, end in intervals for moment in range(begin, end)}
    assert united(intervals) == len(moments)


def test_streams_of_a_gpu_overlap_and_what_is_derived_from_them_does_not_count():
    gpu = plane(
        "/device:GPU:0", Stream_14=[(0, 10), (20, 30)], Stream_15=[(5, 12)], XLA_Modules=[(0, 100)], XLA_Ops=[(0, 90)]
    )
    assert busy_nanoseconds([gpu, plane("/host:CPU", Stream_1=[(0, 1000)])]) == 22
    assert busy_nanoseconds([gpu, plane("/device:GPU:1", Stream_14=[(0, 7)])]) == 29


def test_other_accelerators_have_programs():
    tpu = plane("/device:TPU:0", XLA_Modules=[(0, 10), (15, 20)], XLA_Ops=[(0, 3)], Steps=[(0, 50)])
    assert busy_nanoseconds([tpu, plane("/device:CUSTOM:Megascale Trace", XLA_Modules=[(0, 1000)])]) == 15
    assert busy_nanoseconds([plane("/host:metadata"), plane("/device:TPU:0")]) == 0


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_a_processor_has_no_clock_of_its_own(monkeypatch):
    array = jnp.ones(8)
    assert device_seconds(lambda index: array + index, 2) is None  # a real trace, without a device in it
    assert device_time.clock() == "host"


def test_device_time_is_per_call(monkeypatch):
    planes = [plane("/device:GPU:0", Stream_1=[(0, 3000), (4000, 5000)])]
    monkeypatch.setattr(jax.profiler.ProfileData, "from_file", lambda path: SimpleNamespace(planes=planes))
    assert device_seconds(lambda index: jnp.ones(8), 2) == pytest.approx(2e-6)


def test_every_call_gets_its_index_and_time_is_per_call(monkeypatch):
    seen = []
    clock = iter([10.0, 16.0])
    monkeypatch.setattr(device_time.time, "perf_counter", lambda: next(clock))
    assert wall_seconds(lambda index: seen.append(index), 3) == 2.0
    assert seen == [0, 1, 2]
