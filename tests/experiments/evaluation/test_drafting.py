"""The loop that drafting is timed in does all the work, every time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.decoding import padded_prompt
from experiments.evaluation.drafting import draft_again, drafting_cost, one_step
from jaxdec.decoding.loop import advance, start
from jaxdec.decoding.methods import build_method
from jaxdec.decoding.speculative import PromptLookup, Speculative
from tests.tiny_models import markov_model


@pytest.fixture(scope="module")
def model():
    return markov_model(num_states=12, seed=2, concentration=0.1)[0]


def speculative(name, **options) -> Speculative:
    method = build_method(name, **options)
    assert isinstance(method, Speculative)
    return method


def middle(method, model):
    prompt = padded_prompt([1, 2, 3, 4, 5, 6], 16, [], model)
    return advance(method, model, start(method, model, prompt), 2)


@pytest.mark.slow
def test_a_drafter_that_learns_learns_as_often_as_it_is_asked(model):
    method = speculative("aded", tree_size=3, window=4, capacity=64)
    state = middle(method, model)
    outcome = one_step(method, model, state)
    weights = [
        np.asarray(draft_again(method, model, state, *outcome, count)[0].adaptive.weights).sum() for count in (0, 1, 5)
    ]
    once = weights[1] - weights[0]
    assert once == pytest.approx(2 * 0.04, rel=1e-4)  # two tri-grams in a window of four
    assert weights[2] - weights[0] == pytest.approx(5 * once, rel=1e-3)


def test_the_text_drafted_behind_does_not_move(model):
    method = speculative("lookahead", ngram_size=3, window_size=2, max_guesses=2, pool_size=16)
    state = middle(method, model)
    carry = draft_again(method, model, state, *one_step(method, model, state), 7)
    assert int(carry[1]) == 0


@dataclasses.dataclass(frozen=True)
class Remembering(PromptLookup):
    """Says on the host how long the text is that it drafts behind."""

    def propose(self, model, drafter_state, text):
        length = jax.pure_callback(note, jax.ShapeDtypeStruct((1,), jnp.int32), text.length)
        return super().propose(model, drafter_state, text.replace(length=length))


LENGTHS: list[int] = []


def note(length):
    LENGTHS.append(int(length[0]))
    return np.asarray(length, np.int32)


def test_the_compiler_does_not_draft_once_before_the_loop(model):
    method = Speculative(Remembering(num_nodes=3))
    state = middle(method, model)
    outcome = one_step(method, model, state)
    LENGTHS.clear()
    jax.block_until_ready(draft_again(method, model, state, *outcome, 6))
    assert [int(state.length[0])] * 6 == LENGTHS


@pytest.mark.slow
def test_what_a_step_leaves_behind_is_what_the_engine_makes_of_it(model):
    method = speculative("prompt_lookup", tree_size=3)
    state = middle(method, model)
    _, after = one_step(method, model, state)
    real = method.step(model, state)
    assert jnp.array_equal(after.tokens, real.tokens)
    assert jnp.array_equal(after.length, real.length)


@pytest.mark.slow
def test_the_cost_is_the_ratio_of_two_times(model):
    method = speculative("aded", tree_size=3, window=4, capacity=64)
    prompt = padded_prompt([1, 2, 3, 4, 5, 6], 16, [], model)
    cost = drafting_cost(method, model, prompt, seconds=0.002, repeats=1)
    assert cost["share"] == cost["drafting_ms"] / cost["step_ms"]
    assert jax.tree.all(jax.tree.map(np.isfinite, cost))
