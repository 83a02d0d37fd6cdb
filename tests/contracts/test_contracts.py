"""All methods against all promises: batch 1 and ragged batches, float32 and float64."""

import functools

import jax.numpy as jnp
import pytest

from jaxdec.decoding import Autoregressive, Guarantee, Prompt, decode
from jaxdec.decoding.methods import METHODS
from tests.contracts import checks
from tests.contracts.expected import GreedyTexts
from tests.contracts.table import BUDGET, DETERMINISTIC, PROMPTS, SAMPLED, identifier, x64
from tests.tiny_models import tiny_transformer

every_method = pytest.mark.parametrize("row", DETERMINISTIC, ids=identifier)
every_law = pytest.mark.parametrize("row", SAMPLED, ids=identifier)
RAGGED_BUDGETS = (BUDGET, 5, 9, 1)


@functools.cache
def model_of(dtype: str):
    return tiny_transformer(scale=4.0, dtype=jnp.dtype(dtype))


def batch(size: int):
    """Prompts and budgets: one row, or four rows of different lengths and budgets."""
    return [list(prompt) for prompt in PROMPTS[:size]], list(RAGGED_BUDGETS[:size])


@functools.cache
def greedy_texts(dtype: str):
    """Long enough for every test, without end tokens."""
    return [GreedyTexts(model_of(dtype)).texts(list(prompt), BUDGET, [])[0] for prompt in PROMPTS]


@functools.cache
def end_tokens(dtype: str) -> tuple[int, ...]:
    """A token that ends the first text in its middle, and one that ends the third."""
    texts = greedy_texts(dtype)
    return texts[0].tokens[6], texts[2].tokens[4]


def built(row, size: int, dtype: str = "float32"):
    script = tuple(tuple(text.tokens) for text in greedy_texts(dtype)[:size])
    return row.build(script)


@every_method
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_text(row, size, dtype):
    with x64(dtype == "float64"):
        prompts, budgets = batch(size)
        ends = list(end_tokens(dtype))
        model = model_of(dtype)
        expected = [row.expected(model).texts(prompt, budget, ends) for prompt, budget in zip(prompts, budgets)]
        prompt = Prompt.create(prompts, budgets, eos_tokens=ends)
        ties = checks.check_text(built(row, size, dtype), model, prompt, expected, checks.TIE[dtype])
        assert ties == 0, "near-ties are allowed, but these prompts are known to have none"


@every_law
def test_law(row):
    checks.check_law(row.build(()), row.law)


@every_method
def test_cache(row):
    prompts, budgets = batch(4)
    prompt = Prompt.create(prompts, budgets, eos_tokens=list(end_tokens("float32")))
    checks.check_cache(built(row, 4), model_of("float32"), prompt, tolerance=1e-4)


@every_method
def test_stopping(row):
    prompts, budgets = batch(4)
    texts = [row.expected(model_of("float32")).texts(prompt, BUDGET, [])[0].tokens for prompt in prompts]
    prompt = Prompt.create(prompts, budgets, eos_tokens=[texts[0][6], texts[2][4]])
    checks.check_stopping(built(row, 4), model_of("float32"), prompt)


@every_method
def test_statistics(row):
    prompts, budgets = batch(4)
    checks.check_statistics(
        built(row, 4), model_of("float32"), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS)
    )


@every_method
def test_unused_slots(row):
    prompts, budgets = batch(4)
    checks.check_unused_slots(
        built(row, 4), model_of("float32"), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS)
    )


@pytest.mark.parametrize("row", [row for row in DETERMINISTIC if "speculative" not in row.name], ids=identifier)
def test_independence(row):
    checks.check_independence(built(row, 4), model_of("float32"), [list(prompt) for prompt in PROMPTS], BUDGET)


@every_method
def test_streaming(row):
    prompts, budgets = batch(4)
    checks.check_streaming(
        built(row, 4), model_of("float32"), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS)
    )


@every_method
def test_traces(row):
    first = Prompt.create([list(prompt) for prompt in PROMPTS], RAGGED_BUDGETS, eos_tokens=[3, 5], seed=1)
    second = Prompt.create([[1] * 17, [2], [3], [4, 4]], [3, 9, 2, 11], eos_tokens=[7, 8], seed=2)
    checks.check_traces(built(row, 4), model_of("float32"), [first, second])


def test_every_named_method_has_a_row():
    rows = {row.name.partition(":")[0] for row in (*DETERMINISTIC, *SAMPLED)}
    assert set(METHODS) <= rows


@pytest.mark.parametrize("row", [*DETERMINISTIC, *SAMPLED], ids=identifier)
def test_what_is_declared_is_what_is_checked(row):
    """Exact texts are checked for whoever declares them, laws for whoever declares only those."""
    method = row.build(((0,) * BUDGET,) * 4)
    if row.expected is not None:
        assert method.guarantee == Guarantee.TOKEN_IDENTICAL
    else:
        assert method.guarantee in (Guarantee.DISTRIBUTION, Guarantee.TOKEN_IDENTICAL)
    assert method.reference in ("greedy decoding", "sampling", "beam search", "diverse beam search")


def test_speculative_sampling_draws_the_text_of_plain_sampling():
    """Deterministic guesses verified by exact match promise more than the law: the very text of the same seed."""
    model, prompt = model_of("float32"), Prompt.create(batch(4)[0], 10, seed=5, eos_tokens=checks.NO_ENDS)
    for row in SAMPLED:
        method = row.build(())
        if method.guarantee == Guarantee.TOKEN_IDENTICAL and "random" not in row.name:
            plain, other = decode(Autoregressive(row.law), model, prompt), decode(method, model, prompt)
            assert [checks.texts_of(plain, i) for i in range(4)] == [checks.texts_of(other, i) for i in range(4)]
