"""Optimisers are told apart by what they do to rows without a gradient."""

import jax.numpy as jnp
import optax
import pytest

from jaxdec.training.local_updates import check_resting_rows_stay, moves_resting_rows
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

PARAMS = {"values": jnp.zeros((2, 3, 4)), "decoder": {"kernel": jnp.zeros((4, 2))}}
SLOW = pytest.mark.slow
STAY = {
    "sgd": optax.sgd(0.3),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)),
    "scheduled": optax.sgd(optax.cosine_decay_schedule(0.3, 10)),
    "momentum elsewhere": optax.multi_transform(
        {"plain": optax.sgd(0.3), "other": optax.adam(0.1)}, {"values": "plain", "decoder": "other"}
    ),
}
MOVE = {
    "momentum": optax.sgd(0.3, momentum=0.9),
    "adam": optax.adam(1e-3),
    "decay": optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.3)),
    "centred": optax.chain(optax.centralize(), optax.sgd(0.3)),
    "gathered over three": optax.MultiSteps(optax.sgd(0.3), 3).gradient_transformation(),
    "noisy": optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.3)),
}
QUICK = ("clipped", "momentum")


def cases(optimizers):
    return [pytest.param(name, marks=[] if name in QUICK else [SLOW]) for name in optimizers]


@pytest.mark.parametrize("name", cases(STAY))
def test_rows_stay(name):
    check_resting_rows_stay(STAY[name], PARAMS, "values")


@pytest.mark.parametrize("name", cases(MOVE))
def test_rows_that_move_are_refused(name):
    with pytest.raises(ValueError, match="optimizer must leave rows of 'values' alone that have no gradient"):
        check_resting_rows_stay(MOVE[name], PARAMS, "values")


@SLOW
def test_a_single_row():
    assert bool(moves_resting_rows(MOVE["momentum"], {"values": jnp.zeros((1, 1, 4))}, "values"))


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="name must be one of the parameters, values, decoder; got 'keys'"):
        check_resting_rows_stay(STAY["sgd"], PARAMS, "keys")
