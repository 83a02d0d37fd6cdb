"""What the machine can do is worked out from the right numbers, by programs that do the work."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.kernels import ceilings
from experiments.benchmarks.kernels.ceilings import Ceilings, copy, product, read


def test_rates_follow_from_times_and_sizes():
    programs = Ceilings(nbytes=1 << 16, n=64, dtype="float32")
    asked = []

    def enough(call):
        asked.append(call(0).shape)
        return 2

    programs.warm_up(enough)
    assert asked == [(1 << 14,), (256,), (64, 64), (1 << 12,)]
    times = iter([4.0, 2.0, 8.0, 3.0])

    def time(call, count):
        assert count == 2
        call(0)
        call(1)
        return {"microseconds": next(times)}

    assert programs.measure(time) == {
        "copy_gigabytes_per_second": pytest.approx(2 * (1 << 16) / 4e-6 / 1e9),
        "read_gigabytes_per_second": pytest.approx((1 << 16) / 2e-6 / 1e9),
        "gigaflops_per_second": pytest.approx(2 * 64**3 / 8e-6 / 1e9),
        "launch_microseconds": 3.0,
    }


def test_handing_over_is_seen_from_the_host():
    programs = Ceilings(nbytes=1 << 16, n=8, dtype="bfloat16")
    programs.warm_up(lambda call: 1)
    metrics = programs.measure(lambda call, count: {"microseconds": 1.0, "wall_microseconds": 9.0})
    assert metrics["launch_microseconds"] == 9.0
    assert metrics["copy_gigabytes_per_second"] == pytest.approx(2 * (1 << 16) / 1e3)


def test_the_programs_do_what_they_say():
    source = jnp.arange(512, dtype=jnp.uint32)
    target = jnp.zeros(512, jnp.uint32)
    np.testing.assert_array_equal(copy(source, target), ~np.arange(512, dtype=np.uint32))
    assert target.is_deleted()  # its memory holds the copy
    np.testing.assert_array_equal(read(source).sum(), 511 * 256)
    a, b = ceilings._matrices(16, "bfloat16")
    assert a.dtype == product(a, b).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(product(a, b), np.float32), np.asarray(a, np.float32) @ np.asarray(b, np.float32), atol=0.1
    )
    bits = np.asarray(ceilings._bits(1 << 10))
    assert len(set(bits.tolist())) == 1 << 10
