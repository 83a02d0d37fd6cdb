"""A prefix spread over devices gives what the whole one gives: on eight simulated devices, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdec.attention.context_parallel import context_parallel_attention
from pallas_kernels import prefix_attention

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = {"whole": (32, 32), "ragged": (29, 6), "one device only": (3, 4), "one group empty": (17, 0), "empty": (0, 0)}
OFFSETS = np.array([0, 2, 5])


def arrays(lengths, scale=1.0):
    """Queries, keys and values of two groups with NaN behind their tokens."""
    rng = np.random.default_rng(0)
    queries = scale * rng.standard_normal((5, 4, 8))
    keys, values = rng.standard_normal((2, 2, 32, 2, 8))
    behind = np.arange(32) >= np.array(lengths)[:, None]
    keys[behind] = values[behind] = np.nan
    return tuple(jnp.asarray(array, jnp.float32) for array in (queries, keys, values)), jnp.array(lengths, jnp.int32)


def differences(mesh: Mesh, cases) -> dict[str, dict[str, float]]:
    """Largest differences of output, log-sum-exp and gradients from attention to the whole prefix, case by case."""
    spread = NamedSharding(mesh, PartitionSpec(None, "sequence"))

    def parallel(queries, keys, values, length):
        return context_parallel_attention(
            queries, keys, values, length=length, mesh=mesh, axis="sequence", query_offsets=OFFSETS
        )

    def whole(queries, keys, values, length):
        return prefix_attention(queries, keys, values, kv_lengths=length, query_offsets=OFFSETS)

    def loss(function):
        def of(*inputs):
            out, lse = function(*inputs)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum() + jnp.where(
                lse > -jnp.inf, lse, 0
            ).sum()

        return jax.jit(jax.grad(of, (0, 1, 2)))

    compiled, ours, one, theirs = None, loss(parallel), jax.jit(whole), loss(whole)
    found = {}
    for case, (lengths, scale) in cases.items():
        (queries, keys, values), length = arrays(lengths, scale)
        inputs = (queries, *(jax.device_put(array, spread) for array in (keys, values)), length)
        compiled = compiled or jax.jit(parallel).lower(*inputs).compile()
        pairs = zip((*compiled(*inputs), *ours(*inputs)), (*one(*inputs), *theirs(*inputs)), strict=True)
        names = ("out", "lse", "queries", "keys", "values")
        found[case] = {name: largest(np.asarray(a), np.asarray(b)) for name, (a, b) in zip(names, pairs, strict=True)}
        found[case]["gathers"] = float(compiled.as_text().count("all-gather"))
    return found


def largest(one: np.ndarray, two: np.ndarray) -> float:
    """Largest difference; equal infinities have none."""
    different = one != two
    return float(np.abs(one[different] - two[different]).max(initial=0.0))


def on_eight_devices() -> dict[str, dict[str, float]]:
    """All cases; needs the devices."""
    devices = np.array(jax.devices())
    assert devices.shape == (8,)
    cases = {name: (lengths, 1.0) for name, lengths in LENGTHS.items()} | {"large scores": (LENGTHS["ragged"], 1e4)}
    two_axes = Mesh(devices.reshape(2, 4), ("rows", "sequence"))
    return {
        **differences(Mesh(devices, ("sequence",)), cases),
        **differences(two_axes, {"two axes": (LENGTHS["ragged"], 1.0)}),
    }


CASES = (*LENGTHS, "two axes", "large scores")


@pytest.fixture(scope="module")
def found():
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]).strip()
    code = (
        "import json; from tests.attention import test_context_parallel as t; print(json.dumps(t.on_eight_devices()))"
    )
    line = [sys.executable, "-W", "error", "-c", code]
    quick = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **quick})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_give_what_one_gives(found, case):
    for name in ("out", "lse", "queries", "keys", "values"):
        tolerance = {"lse": 1e-2, "keys": 2e-1, "queries": 1e-3}.get(name, 1e-4) if case == "large scores" else 1e-5
        assert found[case][name] <= tolerance, name  # NaN is not


@pytest.mark.parametrize("case", CASES)
def test_keys_and_values_stay_where_they_are(found, case):
    assert found[case]["gathers"] == 0


def test_one_device_will_do():
    (queries, keys, values), length = arrays((29, 6))
    mesh = Mesh(np.array(jax.devices()[:1]), ("sequence",))
    same = context_parallel_attention(queries[:4], keys, values, length=length, mesh=mesh, axis="sequence")
    for one, two in zip(same, prefix_attention(queries[:4], keys, values, kv_lengths=length), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_meshes_that_do_not_fit_are_refused():
    (queries, keys, values), length = arrays((29, 6))
    mesh = Mesh(np.array(jax.devices()[:1]), ("sequence",))
    with pytest.raises(ValueError, match="axis must be one of the mesh's, 'sequence'; got 'rows'"):
        context_parallel_attention(queries, keys, values, length=length, mesh=mesh, axis="rows")
    mesh = jax.sharding.AbstractMesh((5,), ("sequence",))
    with pytest.raises(ValueError, match="keys must have a multiple of 5 tokens, the size of axis 'sequence'; got 32"):
        jax.eval_shape(
            lambda *arrays: context_parallel_attention(
                *arrays, length=length, mesh=mesh, axis="sequence", query_offsets=OFFSETS
            ),
            queries,
            keys,
            values,
        )
