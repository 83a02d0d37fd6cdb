"""Sharding changes where numbers are, not what they are: eight simulated devices, in a process of their own."""

import json
import os
import subprocess
import sys

import pytest


def eight_devices(request, *arguments):
    cache = {"JAX_COMPILATION_CACHE_DIR": str(request.config.cache.mkdir("compiled"))}
    quick = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    devices = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "tests.training.eight_devices", *arguments]
    environment = {**os.environ, **cache, **quick, **devices}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(request):
    return eight_devices(request, "quick")


@pytest.fixture(scope="module")
def more(request):
    return eight_devices(request)


def check(case, first, second):
    assert case["params"] < 1e-6
    assert case["mean"] < 1e-6
    assert case["grad_norm"] < 1e-5
    assert case["shards"]["params"] == first
    assert case["shards"]["moments"] == [first], "moments do not lie where their parameters do"
    assert case["shards"]["momentum network"] == second


def test_three_updates_with_parameters_cut_along_both_axes_are_those_on_one_device(found):
    check(found["regression"]["both"], [4, 16], [8, 8])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "first", "second"),
    [
        ("data", [16, 32], [32, 8]),
        ("tensor", [16, 8], [8, 8]),
        ("fully_sharded", [16, 4], [4, 8]),
        ("both, in parts", [4, 16], [8, 8]),
    ],
)
def test_three_updates_on_eight_devices_are_those_on_one(more, layout, first, second):
    check(more["regression"][layout], first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "shard"), [("data", [32, 64]), ("tensor", [32, 16])])
def test_a_language_model_too(more, layout, shard):
    case = more["language_model"][layout]
    assert case["params"] < 1e-6
    assert case["grad_norm"] < 1e-5
    assert case["shards"] == shard


@pytest.mark.slow
def test_evaluation_takes_batches_of_any_size(more):
    on_eight, on_one = more["evaluation"]
    assert on_eight == pytest.approx(on_one, rel=1e-5)


def test_batches_that_every_process_has_read(found):
    assert found["part"] == [0, 1]
    assert found["whole"] == {"6": [6, 16], "8": [2, 16]}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("rows", "batch of 12 rows ('x') is not divisible by the 8 places along 'data' of the mesh"),
        ("parts", "batch of 16 rows is not divisible by accumulate times the places along 'data', 4 x 8"),
        ("devices", "mesh {data: 16} asks for 16 devices, there are 8"),
        ("remainder", "mesh {data: -1, model: 3}: 8 devices cannot be divided by 3"),
        ("axis", "for second/weight: 8 is not divisible by 5, shape (32, 8)"),
    ],
)
def test_what_does_not_divide_is_refused(found, case, message):
    assert message in found["refused"][case]
