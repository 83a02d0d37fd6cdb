"""The suite of training: what it judges, what it shows, and both loops on tiny models."""

import json

import jax
import numpy as np
import optax
import pytest

from experiments.benchmarks import targets
from experiments.benchmarks.training import page
from experiments.benchmarks.training.engine import BY_HAND, FIRST, TRAINER, TrainingEngine, hand_update
from experiments.benchmarks.training.suite import SIDES, TARGETS, cases
from experiments.training_data import make_sources
from experiments.training_recipes import make_recipe
from jaxdec.data import batches
from jaxdec.training.trainer import train
from tests.quick_compiling import quick_compiling  # noqa: F401


def samples(value):
    return {"median": value, "min": value, "max": value, "samples": [value] * 3}


def document(slower, smoke=False):
    rows = [
        {
            "case": case.name,
            "side": side,
            "batch": case.arguments["batch"],
            "metrics": {
                "milliseconds": samples(slower if side == TRAINER else 1.0),
                "rows_per_second": samples(1000.0),
            },
            "ratios": {BY_HAND: samples(slower)} if side == TRAINER else {TRAINER: samples(1 / slower)},
            "compile_seconds": 1.0,
            "foreign_load": None,
            "loud_rounds": 0,
            "rounds": 3,
        }
        for case in cases(smoke=smoke)
        for side in SIDES
    ]
    environment = {"device_kind": "cpu", "cores": 2}
    found = {
        "rows": rows,
        "smoke": smoke,
        "host": "host",
        "date": "2000-01-01",
        "environment": environment,
        "rounds": 3,
    }
    found["targets"] = targets.judge(found, TARGETS)
    return {**found, "stem": "training_host_2000-01-01"}


def test_targets_are_judged():
    assert [verdict["reached"] for verdict in document(1.05)["targets"]] == [True, True]
    assert [verdict["reached"] for verdict in document(1.2)["targets"]] == [False, False]
    assert [verdict["reached"] for verdict in document(1.0, smoke=True)["targets"]] == [None, None]


def test_page_and_figure(tmp_path):
    found = document(1.05)
    text = page.training_section(found)
    assert "| trainer | 1.1 (1.1 to 1.1) | 1.05 (1.05 to 1.05) | 1000 (1000 to 1000) | 1.0 | unknown | 0 of 3 |" in text
    page.draw(found, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == page.names(found)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(2))
def test_both_loops_are_timed(index):
    engine = TrainingEngine()
    case = cases(smoke=True)[index]
    arguments = json.loads(json.dumps(case.arguments))
    for side in case.sides:
        assert engine.warm_up(side=side, **arguments)["compile_seconds"] > 0
        found = engine.measure(side=side, **arguments)
        assert found["milliseconds"] > 0
        assert found["rows_per_second"] == pytest.approx(1e3 * arguments["batch"] / found["milliseconds"])


def test_both_loops_learn_the_same():
    case = cases(smoke=True)[0].arguments
    rows = batches(make_sources(case["data"])[0], case["batch"], 0)
    recipe, optimizer, key = make_recipe(case["recipe"], rows.at(0)), optax.adamw(1e-3), jax.random.key(0)
    losses = []
    train(recipe, optimizer, rows, FIRST, key=key, on_step=lambda step, metrics: losses.append(metrics["loss"]))
    params = jax.jit(recipe.init)(jax.random.split(key)[0], rows.at(0))["params"]  # what the trainer begins with
    opt_state = optimizer.init(params)
    for step in range(FIRST):
        params, opt_state, loss = hand_update(recipe, optimizer, params, opt_state, rows.at(step), key)
        np.testing.assert_allclose(loss, losses[step], rtol=1e-5)
