"""Meshes and rules on one device; what needs several is in tests/training/test_sharding.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdec.parallel import (
    DATA_PARALLEL,
    FULLY_SHARDED,
    ShardingRules,
    make_mesh,
    place_rows,
    process_part,
    shardings,
    start_processes,
)

PARAMS = {"layer_0": {"weight": jnp.zeros((6, 4)), "bias": jnp.zeros(6)}, "head": jnp.zeros((3, 2))}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"data": 2}, "mesh {data: 2} asks for 2 devices, there are 1"),
        ({"data": -1, "model": 3}, "mesh {data: -1, model: 3} asks for 3 devices, there are 1"),
        ({"data": -1, "model": -1}, "mesh axes must be positive, and one of them may be -1"),
        ({"data": 0}, "mesh axes must be positive"),
        ({"model": 1}, "mesh must have an axis 'data', got {model: 1}"),
    ],
)
def test_meshes_that_cannot_be(spec, message):
    with pytest.raises(ValueError) as error:
        make_mesh(spec, jax.devices()[:1])
    assert message in str(error.value)


def test_one_device_is_a_mesh():
    mesh = make_mesh({"data": -1, "model": 1}, jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "model": 1}
    assert process_part(mesh) == (0, 1)
    placed = place_rows({"x": np.arange(6).reshape(3, 2)}, mesh)
    np.testing.assert_array_equal(placed["x"], np.arange(6).reshape(3, 2))


def test_the_first_pattern_that_is_found_counts():
    mesh = make_mesh({"data": 1, "model": 1}, jax.devices()[:1])
    rules = ShardingRules(((r"layer_\d/weight", PartitionSpec("model")), ("weight|head", PartitionSpec(None, "model"))))
    assert rules.specs(PARAMS, mesh) == {
        "layer_0/weight": PartitionSpec("model"),
        "layer_0/bias": PartitionSpec(),
        "head": PartitionSpec(None, "model"),
    }
    both = ShardingRules(rules.patterns, fully_sharded=True).specs(PARAMS, mesh)
    assert both["layer_0/weight"] == PartitionSpec("model", "data")
    assert both["head"] == PartitionSpec("data", "model")
    assert set(DATA_PARALLEL.specs(PARAMS, mesh).values()) == {PartitionSpec()}
    assert FULLY_SHARDED.specs(PARAMS, mesh)["head"] == PartitionSpec("data", None), "the largest axis is cut"


@pytest.mark.parametrize(
    ("pattern", "spec", "message"),
    [
        (
            "layer_1",
            PartitionSpec("model"),
            "sharding rule 'layer_1' decides on no parameter; there are head, layer_0/bias",
        ),
        ("layer_(", PartitionSpec("model"), "sharding rule 'layer_(' is no regular expression"),
        ("bias", PartitionSpec(None, "model"), "for layer_0/bias has 2 axes, the parameter has shape (6,)"),
        ("head", PartitionSpec("pipeline"), "for head: mesh has no axis 'pipeline', only data, model"),
    ],
)
def test_rules_that_do_not_fit(pattern, spec, message):
    mesh = make_mesh({"data": 1, "model": 1}, jax.devices()[:1])
    with pytest.raises(ValueError) as error:
        ShardingRules(((pattern, spec),)).specs(PARAMS, mesh)
    assert message in str(error.value)


def test_moments_lie_where_their_parameters_do():
    mesh = make_mesh({"data": 1, "model": 1}, jax.devices()[:1])
    rules = ShardingRules((("layer_0/weight", PartitionSpec("model")),))
    tree = {"opt": ({"mu": PARAMS, "count": jnp.zeros(())}, {"layer_0": {"weight": jnp.zeros(6)}}), "params": PARAMS}
    found = jax.tree.map(lambda place: place.spec, shardings(tree, PARAMS, mesh, rules))
    cut, whole = PartitionSpec("model"), PartitionSpec()
    assert found["params"]["layer_0"] == {"weight": cut, "bias": whole}
    assert found["opt"][0]["mu"]["layer_0"] == {"weight": cut, "bias": whole}
    assert found["opt"][0]["count"] == whole
    assert found["opt"][1]["layer_0"]["weight"] == whole, "another shape is another array"


def test_processes_are_started_only_when_all_is_known(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: joined.append(given))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not start_processes()
    with pytest.raises(ValueError, match="need coordinator, num_processes, process_id; missing: num_processes"):
        start_processes("localhost:1", process_id=0)
    with pytest.raises(ValueError, match="process_id must be at least 0 and below num_processes, 2, got 2"):
        start_processes("localhost:1", 2, 2)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES must be a whole number, got 'two'"):
        start_processes("localhost:1", process_id=0)
    assert joined == []
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    assert start_processes("localhost:1")
    assert start_processes(auto=True)
    assert joined == [("localhost:1", 2, 1), (None, 2, 1)]
