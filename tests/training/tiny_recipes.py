"""A recipe small enough to be followed by hand: two matrices, a running mean as state, noise from the key."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.training.recipe import Recipe

INPUTS, HIDDEN, OUTPUTS, ROWS = 16, 32, 8, 16


@dataclasses.dataclass(frozen=True)
class Regression(Recipe):
    """``|relu((x + noise) A + a) B - y|^2``; state: mean of the inputs so far, an average of parameters, batches seen."""

    noise: float = 0.0
    width: int = HIDDEN

    def init(self, key, batch):
        first, second = jax.random.split(key)
        params = {
            "first": {
                "weight": jax.random.normal(first, (batch["x"].shape[1], self.width)) / 4,
                "bias": jnp.zeros(self.width),
            },
            "second": {"weight": jax.random.normal(second, (self.width, OUTPUTS)) / 6},
        }
        state = {"seen": {"mean": jnp.zeros(INPUTS), "batches": jnp.int32(0)}}
        return {"params": params, **state, "momentum": jax.tree.map(jnp.copy, params)}

    def loss(self, params, state, batch, key):
        x = batch["x"] + self.noise * jax.random.normal(key, batch["x"].shape, batch["x"].dtype)
        loss = squared_error(params, x, batch["y"])
        seen = state["seen"]
        seen = {"mean": 0.9 * seen["mean"] + 0.1 * batch["x"].mean(0), "batches": seen["batches"] + 1}
        return loss, ({**state, "seen": seen}, {"first_row": batch["x"].mean()})

    def after_update(self, params, state):
        momentum = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, state["momentum"], params)
        return {**state, "momentum": momentum}

    def evaluate(self, params, state, batch):
        return {"error": squared_error(params, batch["x"], batch["y"]), "input": batch["x"].mean()}


def squared_error(params, x, y):
    hidden = jax.nn.relu(x @ params["first"]["weight"] + params["first"]["bias"])
    return ((hidden @ params["second"]["weight"] - y) ** 2).sum(-1).mean()


class Stream:
    """Another batch at every step, computed from its number."""

    def __init__(self, rows: int = ROWS, broken_at: int | None = None):
        self.rows, self.broken_at = rows, broken_at

    def at(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng(step)
        x = rng.normal(size=(self.rows, INPUTS)).astype(np.float32)
        y = np.tanh(x[:, :OUTPUTS]).astype(np.float32)
        if step == self.broken_at:
            y[0, 0] = np.nan
        return {"x": x, "y": y}
