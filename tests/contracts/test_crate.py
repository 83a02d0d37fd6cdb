"""The promises of decoding methods hold on a white-box transformer, whose queries, keys and values are one thing."""

import functools

import jax
import pytest

from jaxdec.decoding import Autoregressive, Prompt, decode
from tests.contracts import checks
from tests.contracts.expected import GreedyTexts
from tests.contracts.table import DETERMINISTIC, identifier
from tests.contracts.test_contracts import RAGGED_BUDGETS, batch
from tests.tiny_models import tiny_crate

METHODS = ("greedy", "prompt_lookup", "beam")


@pytest.fixture(scope="module", params=[row for row in DETERMINISTIC if row.name in METHODS], ids=identifier)
def row(request):
    yield request.param
    jax.clear_caches()


@functools.cache
def model():
    return tiny_crate(seed=1)


@functools.cache
def greedy_texts():
    prompts, _ = batch(4)
    return [GreedyTexts(model()).texts(prompt, max(RAGGED_BUDGETS), [])[0] for prompt in prompts]


def built(row):
    return row.build(tuple(tuple(text.tokens) for text in greedy_texts())), model()


def test_text(row):
    prompts, budgets = batch(4)
    ends = [greedy_texts()[0].tokens[6], greedy_texts()[2].tokens[4]]
    expected = [row.expected(model()).texts(prompt, budget, ends) for prompt, budget in zip(prompts, budgets)]
    ties = checks.check_text(*built(row), Prompt.create(prompts, budgets, eos_tokens=ends), expected, 1e-4)
    assert ties == 0


@pytest.mark.slow
def test_cache(row):
    prompts, budgets = batch(4)
    checks.check_cache(*built(row), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS), tolerance=1e-4)


@pytest.mark.slow
def test_independence_and_unused_slots(row):
    prompts, budgets = batch(4)
    checks.check_independence(*built(row), prompts, max(budgets))
    checks.check_unused_slots(*built(row), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS))


def test_texts_are_not_of_one_token():
    """A model that repeats one token would keep every promise."""
    prompts, budgets = batch(4)
    decoded = decode(Autoregressive(), model(), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS))
    assert len(set(map(int, decoded.tokens[0, 0, : budgets[0]]))) > 3
