"""The real engine on tiny shapes: every side gives what the reference gives, and what does not is not timed."""

import jax
import pytest

from experiments.benchmarks.kernels import engine as engine_module
from experiments.benchmarks.kernels.engine import KernelEngine, difference
from experiments.benchmarks.kernels.shapes import LISTED, OPERATIONS, KernelShape, shapes
from experiments.benchmarks.kernels.sides import BACKENDS, DENSE, OWN, TORCH_SIDES, jax_sides, sides_of
from pallas_kernels import merge, prefix_attention

SHAPES = {shape.operation: shape for shape in shapes("cpu", smoke=True) if shape.batch == 3}
TAKING_PART = [
    (operation, side)
    for operation in OPERATIONS
    for side in sides_of(operation)
    if side not in TORCH_SIDES and side.endswith("-xla")
]


@pytest.fixture(scope="module")
def engine():
    return KernelEngine()


def case(operation, **fields):
    return {**SHAPES[operation]._asdict(), "seconds": 0.001, **fields}


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "side"), TAKING_PART)
def test_every_side_equals_the_reference_and_is_timed(engine, monkeypatch, operation, side):
    monkeypatch.setattr(engine_module, "num_sets", lambda nbytes: 2)
    said = engine.warm_up(side, **case(operation))
    assert 0 < said["difference"] < 1e-5
    assert said["compile_seconds"] > 0
    metrics = engine.measure(side, **case(operation))
    assert set(metrics) == {"microseconds"}
    assert metrics["microseconds"] > 0


def test_who_takes_part():
    assert sides_of("merge")[-1] == "flashinfer"
    for operation in ("prefix_attention", "decode_attention"):
        assert sides_of(operation) == (*(f"jaxdec-{name}" for name in OWN[operation]), *DENSE)
    for operation in LISTED:
        assert sides_of(operation) == tuple(f"jaxdec-{name}" for name in OWN[operation])
    whole = sides_of("whole_attention")
    assert {f"copied-{name}" for name in OWN["whole_attention"]} <= set(whole)
    assert {"tpu", "xla"} <= set(BACKENDS)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is an accelerator")
def test_what_this_machine_cannot_run_says_why(engine):
    said = engine.describe()
    assert said["sides"] == jax_sides()
    assert said["clock"] == "host"
    here = {side for side, reason in said["sides"].items() if not reason}
    assert here == {"device", "jaxdec-xla", "copied-xla", "jax.nn-xla"}
    assert said["sides"]["jaxdec-tpu"] == "runs on tpu, and jax sees cpu"
    assert said["sides"]["jax.nn-cudnn"] == "runs on gpu, and jax sees cpu"
    assert said["engines"]["jax.nn-xla"] == {"engine": "jax", "version": jax.__version__}


def test_ceilings(engine):
    arguments = {"nbytes": 1 << 16, "n": 32, "dtype": "float32", "seconds": 0.001}
    assert engine.warm_up("device", **arguments) == {}
    metrics = engine.measure("device", **arguments)
    assert set(metrics) == {
        "copy_gigabytes_per_second", "read_gigabytes_per_second", "gigaflops_per_second", "launch_microseconds",
    }  # fmt: skip
    assert min(metrics.values()) > 0


def broken(monkeypatch, error=None, factor=1.0):
    def call(*arguments, implementation=None, **options):
        if error:
            raise error
        o, lse = prefix_attention(*arguments, **options)
        return factor * o, lse

    monkeypatch.setattr(engine_module, "prefix_attention", call)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"error": NotImplementedError("no such width\nand more")}, "no such width"),
        ({"error": ValueError("lowering failed")}, "ValueError: lowering failed"),
        ({"factor": 1.1}, "RuntimeError: wrong by "),
        ({"factor": float("nan")}, "RuntimeError: wrong by nan"),
    ],
)
def test_a_backend_that_refuses_fails_or_is_wrong_is_not_timed(engine, monkeypatch, fault, reason):
    broken(monkeypatch, **fault)
    said = engine.warm_up("jaxdec-hopper", **case("prefix_attention"))
    assert set(said) == {"refused"}
    assert said["refused"].startswith(reason)
    assert "more" not in said["refused"]


def test_our_own_last_backend_must_be_right(engine, monkeypatch):
    broken(monkeypatch, factor=1.1)
    with pytest.raises(RuntimeError, match="wrong by"):
        engine.warm_up("jaxdec-xla", **case("prefix_attention"))
    broken(monkeypatch, error=ValueError("lowering failed"))
    with pytest.raises(ValueError, match="lowering failed"):
        engine.warm_up("jaxdec-xla", **case("prefix_attention"))
    broken(monkeypatch, error=ValueError("RESOURCE_EXHAUSTED: out of memory\nallocating"))
    said = engine.warm_up("jaxdec-xla", **case("prefix_attention"))
    assert said == {"refused": "ValueError: RESOURCE_EXHAUSTED: out of memory"}


def test_the_merge_is_compared_too(monkeypatch):
    def wrong(parts, implementation=None):
        o, lse = merge(parts)
        return o + 0.25, lse

    monkeypatch.setattr(engine_module, "merge", wrong)
    assert difference("jaxdec-xla", SHAPES["merge"]) == pytest.approx(0.25, abs=1e-4)
    assert difference("jaxdec-xla", SHAPES["whole_attention"]) == pytest.approx(0.25, abs=1e-4)


def test_what_does_not_fit_is_refused_before_it_is_made(engine, monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000}

    monkeypatch.setattr(engine, "device", Device())
    said = engine.warm_up("jax.nn-xla", **case("prefix_attention", prefix=1 << 30, batch=1024))
    assert said["refused"].startswith("needs ")
    assert said["refused"].endswith("0.0 GB may be used")


def test_sets_are_shared_by_sides_of_one_layout_and_forgotten_after(engine, monkeypatch):
    made = []
    monkeypatch.setattr(engine, "_sets", (None, []))
    monkeypatch.setattr(engine_module, "make", lambda key, layout, shape: made.append(layout) or (layout,))
    monkeypatch.setattr(engine_module, "num_sets", lambda nbytes: 1)
    shape = SHAPES["whole_attention"]
    for side in ("jaxdec-xla", "copied-xla", "jax.nn-xla", "jaxdec-xla"):
        engine._arrays(side, shape)
    assert made == ["split", "rows", "split"]


def test_calls_take_about_the_time_asked_for(engine, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.kernels.device_time.wall_seconds", lambda call, count: 0.01)
    assert engine._enough(None, 0.25) == 25
    assert engine._enough(None, 0.0) == 3
    assert engine._enough(None, 1e9) == 20_000


def test_a_device_with_a_clock_gives_both_times(engine, monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.kernels.device_time.wall_seconds", lambda call, count: 5e-6)
    monkeypatch.setattr("experiments.benchmarks.kernels.device_time.device_seconds", lambda call, count: 2e-6)
    monkeypatch.setattr(engine, "clock", "device")
    assert engine._time(None, 3) == {"microseconds": pytest.approx(2.0), "wall_microseconds": pytest.approx(5.0)}
    monkeypatch.setattr("experiments.benchmarks.kernels.device_time.device_seconds", lambda call, count: None)
    with pytest.raises(RuntimeError, match="sees it no more"):
        engine._time(None, 3)


def test_shapes_survive_the_way_through_json(engine):
    assert KernelShape.of(case("whole_attention")) == SHAPES["whole_attention"]
