"""Which tree size pays, and the measured cost it is weighed against."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.decoding.speculative import step_cost
from jaxdec.decoding.speculative.speed_model import MEMORY, AcceptanceRates, TreeSizes
from jaxdec.decoding.speculative.step_cost import machine_and_model, relative_step_cost, rising, step_milliseconds
from jaxdec.decoding.speculative.tree import chain
from tests.tiny_models import tiny_transformer

SIZES = TreeSizes((0, 2, 6), (1.0, 1.5, 2.5))
DEPTH = jnp.arange(1, 7)[None]


def after(outcomes, rows=1):
    """Rates after steps that fed six nodes and accepted so many."""
    rates = AcceptanceRates.create(rows, 6)
    for accepted in outcomes:
        reached = jnp.broadcast_to(jnp.arange(1, 7) <= accepted, (rows, 6))
        rates = rates.update(jnp.ones((rows, 6), bool), reached, jnp.ones(rows, bool))
    return rates


def choice(rates, count=6, done=False):
    rows = rates.tested.shape[0]
    tree = chain(jnp.zeros((rows, 6), jnp.int32), jnp.full(rows, count))
    depth = jnp.broadcast_to(DEPTH, (rows, 6))
    return SIZES.nodes[int(SIZES.choose(rates, tree, depth, jnp.full(rows, done)))]


def test_the_size_follows_what_was_accepted():
    assert choice(after([6] * 5)) == 6
    assert choice(after([0] * 5)) == 0
    assert choice(after([2] * 8)) == 2


def test_no_size_is_larger_than_what_was_guessed():
    assert choice(after([6] * 5), count=0) == 0
    assert choice(after([6] * 5), count=2) == 2


def test_what_was_given_up_is_tried_again():
    rates, waited = after([0] * 5), 0
    while choice(rates) == 0:
        nothing = jnp.zeros((1, 6), bool)
        rates, waited = rates.update(nothing, nothing, jnp.ones(1, bool)), waited + 1
        assert waited < 200
    assert waited > 5


def test_only_depths_that_were_reached_are_tested():
    """A failure at depth 1 says nothing about depth 2."""
    rates = after([0])
    assert rates.tested[0].tolist() == [1, 0, 0, 0, 0, 0]
    rates = after([2])
    assert rates.tested[0].tolist() == [1, 1, 1, 0, 0, 0]
    assert rates.passed[0].tolist() == [1, 1, 0, 0, 0, 0]
    still = rates.update(jnp.ones((1, 6), bool), jnp.ones((1, 6), bool), jnp.zeros(1, bool))
    np.testing.assert_array_equal(still.tested, rates.tested)
    faded = rates.update(jnp.zeros((1, 6), bool), jnp.zeros((1, 6), bool), jnp.ones(1, bool))
    np.testing.assert_allclose(faded.passed, MEMORY * rates.passed)


def test_estimates_fall_with_depth_and_meet_what_was_seen():
    estimate = np.asarray(after([3] * 60).estimate())[0]
    assert (np.diff(estimate) <= 0).all()
    assert estimate[2] > 0.9
    assert estimate[3] < 0.1


def test_a_batch_takes_what_pays_for_its_active_rows_together():
    rates = AcceptanceRates(*(jnp.concatenate(pair) for pair in zip(
        *[(rates.tested, rates.passed) for rates in (after([6] * 9), after([0] * 9))]
    )))  # fmt: skip
    tree = chain(jnp.zeros((2, 6), jnp.int32), jnp.full(2, 6))
    depth = jnp.broadcast_to(DEPTH, (2, 6))

    def chosen(*done):
        return SIZES.nodes[int(SIZES.choose(rates, tree, depth, jnp.asarray(done)))]

    assert chosen(False, True) == 6
    assert chosen(True, False) == 0
    assert chosen(False, False) == 6, "(1 + 6 / 2) / 2.5 is more than 1"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(-1, 6), min_size=3, max_size=3), max_size=12),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_drafting_could_pay_where_a_whole_chain_would(steps, done):
    """``-1``: nothing was fed to that row."""
    rates, levels = AcceptanceRates.create(3, 6), jnp.arange(1, 7)
    for step in steps:
        accepted = jnp.asarray(step)[:, None]
        fed = jnp.broadcast_to(accepted >= 0, (3, 6))
        rates = rates.update(fed, levels <= accepted, jnp.ones(3, bool))
    tree = chain(jnp.zeros((3, 6), jnp.int32), jnp.full(3, 6))
    chosen = SIZES.choose(rates, tree, jnp.broadcast_to(DEPTH, (3, 6)), jnp.asarray(done))
    assert bool(SIZES.could_pay(rates, jnp.asarray(done))) == (int(chosen) > 0)


def test_costs_are_measured_once(tmp_path, monkeypatch):
    model = tiny_transformer()
    asked = []

    def fake(model, counts, batch):
        asked.append(counts)
        return {count: 2.0 if count == 1 else 3.0 * count for count in counts}

    monkeypatch.setattr(step_cost, "step_times", fake)
    assert relative_step_cost(model, [1, 4, 8], folder=tmp_path) == {1: 1.0, 4: 6.0, 8: 12.0}
    assert asked == [[1, 4, 8]]
    assert relative_step_cost(model, [8, 4], folder=tmp_path) == {8: 12.0, 4: 6.0}
    assert len(asked) == 1
    assert relative_step_cost(model, [16], folder=tmp_path) == {16: 24.0}
    assert asked[1] == [1, 4, 8, 16], "one curve, all of it under the same conditions"
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"1": 1.0, "4": 6.0, "8": 12.0, "16": 24.0}
    path.write_text("damaged")
    assert relative_step_cost(model, [4], folder=tmp_path) == {4: 6.0}
    (tmp_path / "file").write_text("")
    assert relative_step_cost(model, [4], folder=tmp_path / "file") == {4: 6.0}, "a folder that cannot be made"


def test_more_tokens_never_cost_less():
    assert rising({1: 10.0, 2: 8.0, 4: 15.0, 8: 14.0}) == {1: 1.0, 2: 1.0, 4: 1.5, 8: 1.5}


def test_the_shortest_times_count(monkeypatch):
    """Passes of ``n`` tokens take ``n`` ms behind 5 ms of overhead; load doubles some of the calls."""
    calls = iter(range(10**6))

    def fake(model, count, batch, context, passes):
        return lambda: (5.0 + count * passes) * (2 if next(calls) % 3 == 1 else 1)

    monkeypatch.setattr(step_cost, "run_passes", fake)
    assert step_cost.step_times(tiny_transformer(), [1, 4]) == pytest.approx({1: 1.0, 4: 4.0})


def test_models_and_batches_have_their_own_curves():
    names = {
        machine_and_model(model, batch)
        for model in (tiny_transformer(), tiny_transformer(num_layers=3))
        for batch in (1, 4)
    }
    assert len(names) == 4
    assert machine_and_model(tiny_transformer(seed=5), 1) in names, "what the weights say does not matter"


def test_a_pass_is_timed():
    assert 0 < step_milliseconds(tiny_transformer(), 2, batch=2, context=8, seconds=0.01) < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "nodes must be an increasing list"),
        (((-1, 2), (1.0, 1.0)), "nodes must be an increasing list"),
        (((0, 2), (1.0, 0.0)), "costs must be one positive number"),
    ],
)
def test_sizes_without_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TreeSizes(*arguments)
