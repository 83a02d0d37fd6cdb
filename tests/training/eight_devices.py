"""Run by test_sharding.py in a process with eight simulated devices; prints what it found as JSON.

With "quick" as its argument it makes the one run in which parameters are cut in every way.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxdec.models import DecoderConfig, Transformer
from jaxdec.parallel import DATA_PARALLEL, FULLY_SHARDED, ShardingRules, make_mesh, place_whole, process_part
from jaxdec.training.recipes.language_model import TENSOR_PARALLEL, NextToken
from jaxdec.training.trainer import evaluate, train
from tests.training.tiny_recipes import Regression, Stream

FIRST = ((r"first/weight", PartitionSpec(None, "model")),)
LAYOUTS = {
    "both": ({"data": 4, "model": 2}, ShardingRules(FIRST, True), 1),
    "data": ({"data": 8}, DATA_PARALLEL, 1),
    "tensor": ({"data": 2, "model": 4}, ShardingRules((*FIRST, (r"second/weight", PartitionSpec("model")))), 1),
    "fully_sharded": ({"data": 8}, FULLY_SHARDED, 1),
    "both, in parts": ({"data": 4, "model": 2}, ShardingRules(FIRST, True), 2),
}
LANGUAGE_MODELS = {
    "data": ({"data": 8}, DATA_PARALLEL),
    "tensor": ({"data": 2, "model": 4}, ShardingRules(TENSOR_PARALLEL)),
}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))


class Tokens:
    """Random texts."""

    def at(self, step):
        return {"tokens": np.random.default_rng(step).integers(0, 64, (8, 9)).astype(np.int32)}


def run(recipe, batches, spec, rules, accumulate=1):
    norms = []
    state = train(recipe, OPTIMIZER, batches, 3, key=jax.random.key(0), mesh=make_mesh(spec), rules=rules,
                  accumulate=accumulate, on_step=lambda step, metrics: norms.append(metrics["grad_norm"]))  # fmt: skip
    return state, norms


def difference(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other))
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def local_shape(array):
    return list(array.addressable_shards[0].data.shape)


def refused(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def regression(name):
    """The largest differences from one device, and what a device holds."""
    spec, rules, accumulate = LAYOUTS[name]
    noise = 0.1 if accumulate == 1 else 0.0  # parts draw noise of their own
    alone, expected = run(Regression(noise), Stream(), {"data": 1}, DATA_PARALLEL)
    state, norms = run(Regression(noise), Stream(), spec, rules, accumulate)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (16, 32)]
    return {
        "params": difference(alone.params, state.params),
        "mean": difference(alone.state["seen"]["mean"], state.state["seen"]["mean"]) if accumulate == 1 else 0.0,
        "grad_norm": max(abs(a - b) for a, b in zip(norms, expected)),
        "shards": {
            "params": local_shape(state.params["first"]["weight"]),
            "moments": [local_shape(leaf) for leaf in moments],
            "momentum network": local_shape(state.state["momentum"]["second"]["weight"]),
        },
    }


def language_model(name):
    """The same for a Transformer."""
    recipe = NextToken(Transformer(DecoderConfig("llama", 64, 32, 64, 1, 8, 4, 8, 16)))
    alone, expected = run(recipe, Tokens(), {"data": 1}, DATA_PARALLEL)
    state, norms = run(recipe, Tokens(), *LANGUAGE_MODELS[name])
    return {
        "params": difference(alone.params, state.params),
        "grad_norm": max(abs(a - b) for a, b in zip(norms, expected)),
        "shards": local_shape(state.params["layer_0"]["mlp"]["down"]["weight"]),
    }


def evaluation(mesh):
    """The error on batches of which one divides by no mesh."""
    batch = Stream(rows=6).at(0)
    state = Regression().init(jax.random.key(0), jax.tree.map(jnp.asarray, batch))
    params = state.pop("params")
    return evaluate(Regression(), params, state, [batch, Stream().at(1)], mesh)["error"]


def main(quick):
    mesh = make_mesh({"data": 4, "model": 2})
    axis = {"data": 1, "model": 5}
    found = {
        "regression": {name: regression(name) for name in (["both"] if quick else LAYOUTS)},
        "part": process_part(mesh),
        "whole": {rows: local_shape(place_whole(Stream(rows).at(0), mesh)["x"]) for rows in (6, 8)},
        "refused": {
            "rows": refused(lambda: run(Regression(), Stream(rows=12), {"data": 8}, DATA_PARALLEL)),
            "parts": refused(lambda: run(Regression(), Stream(), {"data": 8}, DATA_PARALLEL, accumulate=4)),
            "devices": refused(lambda: make_mesh({"data": 16})),
            "remainder": refused(lambda: make_mesh({"data": -1, "model": 3})),
            "axis": refused(
                lambda: run(Regression(), Stream(), axis, ShardingRules((("second", PartitionSpec(None, "model")),)))
            ),
        },
    }
    if not quick:
        found["language_model"] = {name: language_model(name) for name in LANGUAGE_MODELS}
        found["evaluation"] = [evaluation(where) for where in (mesh, make_mesh({"data": 1}))]
    print(json.dumps(found))


if __name__ == "__main__":
    main("quick" in sys.argv)
