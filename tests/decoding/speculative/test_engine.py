"""The speculative engine with drafters that are always right and always wrong, and its own counters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding import Autoregressive, Prompt, decode
from jaxdec.decoding.loop import UNLIMITED, advance, start
from jaxdec.decoding.speculative import PromptLookup, Speculative, TreeSizes
from jaxdec.decoding.speculative.speed_model import AcceptanceRates
from jaxdec.language_model import LanguageModel
from tests.decoding.speculative.drafters import RandomTrees, Scripted
from tests.tiny_models import tiny_transformer

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3], [7, 7, 7]]


@pytest.fixture(scope="module")
def plain():
    """Model, prompt and the script of plain decoding."""
    model, prompt = tiny_transformer(), Prompt.create(PROMPTS, 21)
    decoded = decode(Autoregressive(), model, prompt)
    return model, prompt, tuple(map(tuple, decoded.tokens[:, 0].tolist()))


def run(method: Speculative, model: LanguageModel, prompt: Prompt):
    """Decode to the end; the last state and the result."""
    state = advance(method, model, start(method, model, prompt), UNLIMITED)
    return state, method.result(state)


def test_an_oracle_emits_depth_plus_one_tokens_per_call(plain):
    model, prompt, script = plain
    state, decoded = run(Speculative(Scripted(script, 4, model.vocab_size)), model, prompt)
    assert decoded.target_calls.tolist() == [[1 + 20 // 5]] * 4
    assert state.stats.drafted.tolist() == state.stats.accepted.tolist() == [[4] * 4] * 4
    assert state.stats.fed.tolist() == [16] * 4
    place = np.arange(state.tokens.shape[1]) - np.asarray(state.prompt_length)[:, None]
    # The prefill's token, then blocks of four drafts and a bonus.
    expected = np.where((place < 1) | (place > 20), 0, np.where(place % 5 == 0, 1, 2))
    np.testing.assert_array_equal(state.stats.produced_by, expected)


def test_an_adversary_costs_one_call_per_token(plain):
    model, prompt, script = plain
    state, decoded = run(Speculative(Scripted(script, 4, model.vocab_size, shift=1)), model, prompt)
    assert decoded.target_calls.tolist() == [[21]] * 4
    assert state.stats.accepted.sum() == 0
    assert state.stats.drafted[:, 0].tolist() == [20] * 4
    assert (np.asarray(state.stats.produced_by) <= 1).all()


def test_counters_add_up_for_random_trees(plain):
    model, prompt, script = plain
    state, decoded = run(Speculative(RandomTrees(script, 9, 4, model.vocab_size)), model, prompt)
    accepted = np.asarray(state.stats.accepted)
    steps = np.asarray(decoded.target_calls)[:, 0] - 1  # the prefill is none
    assert (np.diff(accepted, axis=1) <= 0).all(), "whoever gets deep has been shallow"
    assert (accepted <= np.asarray(state.stats.drafted)).all()
    # A block is cut by the budget at most once, at the end.
    emitted = np.asarray(decoded.length)[:, 0] - 1
    assert (emitted <= accepted.sum(1) + steps).all()
    assert (emitted > accepted.sum(1) + steps - 5).all()
    assert state.stats.fed.tolist() == (9 * steps).tolist()


@pytest.mark.parametrize(("shift", "expected"), [(0, "largest"), (1, "none")])
def test_sizes_follow_what_is_accepted(plain, shift, expected):
    """An oracle is soon given its whole tree, an adversary hardly anything."""
    model, prompt, script = plain
    sizes = TreeSizes((0, 2, 4), (1.0, 1.3, 1.6))
    method = Speculative(Scripted(script, 4, model.vocab_size, shift), sizes=sizes)
    state, decoded = run(method, model, prompt)
    steps = int(decoded.target_calls[0, 0]) - 1
    if expected == "largest":
        assert int(state.stats.fed[0]) >= 4 * (steps - 2)
        assert steps <= 6
    else:
        assert steps == 20
        assert int(state.stats.fed[0]) < 2 * steps / 2


def test_a_size_that_is_not_fed_costs_nothing(plain):
    """A compiler that computes a size's first layer ahead of its loop would make every step pay for all sizes."""
    model, prompt, _ = plain
    sizes = TreeSizes((0, 1, 2, 3), (1.0, 1.2, 1.4, 1.6))
    method = Speculative(PromptLookup(num_nodes=3), sizes=sizes)

    def text(tokens):
        return advance(method, model, start(method, model, prompt.replace(tokens=tokens)), UNLIMITED).tokens

    compiled = jax.jit(text).lower(prompt.tokens).compile().as_text()
    products = r'op_name="[^"]*/layer_0/[^"]*dot_general'
    computations = re.split(r"\n(?=(?:ENTRY )?%\S+ \()", compiled)
    step = max(computations, key=lambda text: len(re.findall(r" while\(", text)))
    assert len(re.findall(r" while\(", step)) >= len(sizes.nodes)
    assert not re.findall(products, step)
    assert len([text for text in computations if re.search(products, text)]) >= len(sizes.nodes)


@pytest.mark.slow
def test_sizes_in_float64():
    """Where counts are 64 bits wide unless they are told not to be."""
    with jax.enable_x64(True):
        model, prompt = tiny_transformer(dtype=jnp.float64), Prompt.create(PROMPTS, 21)
        sizes = TreeSizes((0, 3), (1.0, 1.6))
        _, decoded = run(Speculative(PromptLookup(num_nodes=3), sizes=sizes), model, prompt)
        expected = decode(Autoregressive(), model, prompt)
        np.testing.assert_array_equal(decoded.tokens[..., :21], expected.tokens[..., :21])
    jax.clear_caches()


class AlwaysAsked(Scripted):
    """What the engine thinks must be asked in every step."""

    is_read_only = False


def test_no_draft_is_asked_for_that_could_not_pay(plain):
    """And nothing else changes."""
    model, prompt, script = plain
    sizes, outcomes = TreeSizes((0, 2, 4), (1.0, 1.3, 1.6)), []
    for drafter in (Scripted, AlwaysAsked):
        method = Speculative(drafter(script, 4, model.vocab_size, 1), sizes=sizes)
        state, decoded = run(method, model, prompt)
        outcomes.append(jax.tree.leaves((state.tokens, state.stats, state.rates, decoded)))
        asked = []
        for failures in (0, 5):
            rates = AcceptanceRates(jnp.full((4, 4), failures, float), jnp.zeros((4, 4)))
            asked.append(bool(method.propose(model, start(method, model, prompt).replace(rates=rates))[0].valid.any()))
        assert asked == [True, drafter is AlwaysAsked]
    for without, always in zip(*outcomes):
        np.testing.assert_array_equal(without, always)


def test_sizes_beyond_the_tree_are_refused():
    with pytest.raises(ValueError, match="sizes asks for 8 nodes, the drafter's trees have 3"):
        Speculative(PromptLookup(num_nodes=3), sizes=TreeSizes((0, 8), (1.0, 2.0)))
    with pytest.raises(ValueError, match="nodes must be an increasing list"):
        TreeSizes((3, 3), (1.0, 2.0))
    with pytest.raises(ValueError, match="costs must be one positive number for each"):
        TreeSizes((0, 3), (1.0,))
