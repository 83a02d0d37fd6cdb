"""Optimisers and schedules: by their formulas, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.training.optimizers import learning_rate, make_optimizer

PARAMS = {"weight": jnp.arange(1.0, 7.0).reshape(2, 3), "bias": jnp.arange(1.0, 4.0)}
GRADIENTS = [jax.tree.map(lambda leaf, seed=seed: jnp.cos(leaf + seed), PARAMS) for seed in range(3)]


def stepped(config, gradients=GRADIENTS, num_steps=10):
    """Parameters after these gradients."""
    optimizer = make_optimizer(config, num_steps)
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        changes, state = update(gradient, state, params)
        params = optax.apply_updates(params, changes)
    return {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}


def by_hand(rule, decay):
    """Three steps of ``rule(p, g, memory, t) -> (change, memory)`` in float64; only the matrix decays."""
    result = {}
    for name, leaf in PARAMS.items():
        p, memory = np.asarray(leaf, np.float64), {}
        for t, gradient in enumerate(GRADIENTS, start=1):
            p = p + rule(p, np.asarray(gradient[name], np.float64), memory, t, decay if name == "weight" else 0.0)
        result[name] = p
    return result


def adamw(p, g, memory, t, decay):
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    memory["v"] = 0.99 * memory.get("v", 0) + 0.01 * g**2
    corrected = memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["v"] / (1 - 0.99**t)) + 1e-8)
    return -0.1 * (corrected + decay * p)


def lion(p, g, memory, t, decay):
    m = memory.get("m", 0 * g)
    memory["m"] = 0.99 * m + 0.01 * g
    return -0.1 * (np.sign(0.9 * m + 0.1 * g) + decay * p)


def sgd(p, g, memory, t, decay):
    memory["m"] = 0.9 * memory.get("m", 0) + g + decay * p
    return -0.1 * memory["m"]


def lars(p, g, memory, t, decay):
    step = g + decay * p
    trust = 0.02 * np.linalg.norm(p) / np.linalg.norm(step) if p.ndim > 1 else 1.0
    memory["m"] = 0.9 * memory.get("m", 0) - 0.1 * trust * step
    return memory["m"]


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"name": "adamw", "b2": 0.99, "weight_decay": 0.3}, adamw),
        ({"name": "lion", "weight_decay": 0.3}, lion),
        ({"name": "sgd", "weight_decay": 0.3}, sgd),
        ({"name": "lars", "weight_decay": 0.3, "trust": 0.02}, lars),
    ],
)
def test_three_steps_by_the_formula_and_biases_do_not_decay(config, rule):
    found, expected = stepped({"learning_rate": 0.1, **config}), by_hand(rule, 0.3)
    for name in PARAMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5)


def test_gradients_are_clipped_by_their_global_norm():
    norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in GRADIENTS[0].values()))
    config = {"name": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    free, clipped = (stepped({**config, "clip": clip}, GRADIENTS[:1]) for clip in (0.0, norm / 4))
    for name, leaf in PARAMS.items():
        np.testing.assert_allclose(clipped[name] - leaf, (free[name] - leaf) / 4, rtol=1e-5, atol=1e-6)


def rates(schedule, steps, num_steps=100):
    rate = jax.jit(learning_rate({"learning_rate": 0.5, "schedule": schedule}, num_steps))
    return [float(rate(step)) for step in steps]


def test_schedules():
    assert rates({"name": "constant"}, (0, 99)) == pytest.approx([0.5, 0.5])
    assert rates({"name": "constant", "warmup": 4}, (0, 1, 3, 50)) == pytest.approx([0.125, 0.25, 0.5, 0.5])
    found = rates({"name": "cosine", "warmup": 20, "final": 0.1}, (0, 9, 19, 20, 60, 100, 500))
    assert found == pytest.approx([0.025, 0.25, 0.5, 0.5, 0.275, 0.05, 0.05])


def test_the_published_schedule_of_crate():
    """``min((e + 1) / (20 + 1e-8), 0.5 (cos(e / E pi) + 1))`` for every epoch ``e``, as in the authors' main.py."""
    epochs, epoch = 40, 7
    steps = list(range(0, epochs * epoch, 5))
    expected = [
        0.5 * min((step // epoch + 1) / (20 + 1e-8), 0.5 * (math.cos(step // epoch / epochs * math.pi) + 1))
        for step in steps
    ]
    found = rates({"name": "min_warmup_cosine", "warmup": 20, "epoch": epoch}, steps, epochs * epoch)
    assert found == pytest.approx(expected, rel=1e-4)
    assert max(expected) < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adam"}, "optimizer must be one of adamw, lion, sgd, lars, got 'adam'"),
        ({"momentum": 0.9}, "optimizer adamw: unknown field 'momentum'; known: b1, b2, eps, weight_decay"),
        ({"learning_rate": 0}, "learning_rate of the optimizer must be positive, got 0"),
        ({"clip": -1.0}, "clip of the optimizer must be at least 0, got -1.0"),
        ({"schedule": {"name": "linear"}}, "schedule must be one of constant, cosine, min_warmup_cosine, got 'linear'"),
        ({"schedule": {"name": "cosine", "end": 0}}, "schedule cosine: unknown field 'end'; known: final, warmup"),
        ({"schedule": {"name": "cosine", "warmup": 10}}, "warmup must be below the number of updates, 10, got 10"),
        ({"schedule": {"name": "min_warmup_cosine", "warmup": 0}}, "warmup and epoch must be at least 1, got 0 and 1"),
    ],
)
def test_bad_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer({"name": "adamw", "learning_rate": 0.1, **changes}, 10)


def test_a_missing_rate():
    with pytest.raises(ValueError, match="optimizer needs a learning_rate, got clip, name"):
        make_optimizer({"name": "adamw", "clip": 1.0}, 10)
