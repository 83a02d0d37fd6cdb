"""All methods against all promises: batch 1 and ragged batches, float32 and float64."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxdec.decoding import Autoregressive, Guarantee, Prompt, decode
from jaxdec.decoding.methods import METHODS
from jaxdec.decoding.prefix_sharing import Node, PrefixSharing
from tests.contracts import checks
from tests.contracts.expected import GreedyTexts
from tests.contracts.table import BUDGET, DETERMINISTIC, NO_SCRIPT, PROMPTS, SAMPLED, identifier, x64
from tests.tiny_models import tiny_transformer

RAGGED_BUDGETS = (BUDGET, 5, 9, 1)
STEM = (5, 6, 7, 8, 9, 10)
SHARED_PROMPTS = ((*STEM, 1, 4, 3), (*STEM, 1, 4, 7, 7), (*STEM, 2), (11, 12))
SHARED_NODES = [[Node(0, 3, 0, 6)], [Node(0, 2, 6, 8)]]
ALSO_IN_A_HURRY = {"greedy"}  # those of the default run; the slow one has all
INDEPENDENT_IN_A_HURRY = {"greedy", "prompt_lookup", "suffix_retrieval", "beam"}  # likewise
VARIANTS = {"diverse_beam:cumulative", "suffix_retrieval:sizes", "draft_model", "aded:puct", "speculative:random trees"}
"""Left to the slow run: the default one has another row of the same method."""


PROCESSED = {
    f"{name}:processed" for name in ("aded", "lookahead", "suffix_retrieval", "draft_model", "speculative:random trees")
}
"""Laws under top-k and the like that are left to the slow run as well."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(row, id=identifier(row), marks=[pytest.mark.slow] if row.name in VARIANTS else [])
        for row in DETERMINISTIC
    ],
)
def row(request):
    """All checks of a method run one after the other and share its compiled programs, which are then forgotten."""
    yield request.param
    jax.clear_caches()


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
    """Method and model of a row."""
    script = tuple(tuple(text.tokens) for text in greedy_texts(dtype)[:size])
    model = model_of(dtype)
    return row.build(script), model.accompanied(**row.companions(model, script))


SLOW_SIZES = [pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "float32"), (4, "float64"))]


@pytest.mark.parametrize(("size", "dtype"), [(4, "float32"), *SLOW_SIZES])
def test_text(row, size, dtype):
    with x64(dtype == "float64"):
        prompts, budgets = batch(size)
        ends = list(end_tokens(dtype))
        model = model_of(dtype)
        expected = [row.expected(model).texts(prompt, budget, ends) for prompt, budget in zip(prompts, budgets)]
        prompt = Prompt.create(prompts, budgets, eos_tokens=ends)
        ties = checks.check_text(*built(row, size, dtype), prompt, expected, checks.TIE[dtype])
        assert ties == 0, "near-ties are allowed, but these prompts are known to have none"


@pytest.mark.parametrize(
    "law_row",
    [
        pytest.param(row, id=identifier(row), marks=[pytest.mark.slow] if row.name in PROCESSED else [])
        for row in SAMPLED
    ],
)
def test_law(law_row):
    checks.check_law(law_row.build(()), law_row.law, lambda model: law_row.companions(model, NO_SCRIPT))


def test_cache(row):
    prompts, budgets = batch(4)
    prompt = Prompt.create(prompts, budgets, eos_tokens=list(end_tokens("float32")))
    checks.check_cache(*built(row, 4), prompt, tolerance=1e-4)


def test_stopping(row):
    prompts, budgets = batch(4)
    texts = [row.expected(model_of("float32")).texts(prompt, BUDGET, [])[0].tokens for prompt in prompts]
    prompt = Prompt.create(prompts, budgets, eos_tokens=[texts[0][6], texts[2][4]])
    checks.check_stopping(*built(row, 4), prompt)


def test_statistics(row):
    prompts, budgets = batch(4)
    checks.check_statistics(*built(row, 4), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS))


def test_unused_slots(row):
    prompts, budgets = batch(4)
    checks.check_unused_slots(*built(row, 4), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=identifier(row), marks=[] if row.name in INDEPENDENT_IN_A_HURRY else [pytest.mark.slow])
        for row in DETERMINISTIC
    ],
    indirect=True,
)
def test_independence(row):
    if "speculative:" in row.name:
        return  # the script of these test drafters belongs to one batch
    checks.check_independence(*built(row, 4), [list(prompt) for prompt in PROMPTS], BUDGET)


def test_streaming(row):
    prompts, budgets = batch(4)
    checks.check_streaming(*built(row, 4), Prompt.create(prompts, budgets, eos_tokens=checks.NO_ENDS))


def test_traces(row):
    first = Prompt.create([list(prompt) for prompt in PROMPTS], RAGGED_BUDGETS, eos_tokens=[3, 5], seed=1)
    second = Prompt.create([[1] * 17, [2], [3], [4, 4]], [3, 9, 2, 11], eos_tokens=[7, 8], seed=2)
    checks.check_traces(*built(row, 4), [first, second])


def sharing_of(prompts, nodes):
    """A batch with ragged budgets, and what its prompts share."""
    prompts = [list(prompt) for prompt in prompts]
    prompt = Prompt.create(prompts, RAGGED_BUDGETS, eos_tokens=checks.NO_ENDS, seed=2)
    return prompt, PrefixSharing.of(prompts, nodes, max(RAGGED_BUDGETS), prompt.capacity)


@pytest.mark.parametrize(
    "sharing_row",
    [
        pytest.param(row, id=identifier(row), marks=[] if row.name in ALSO_IN_A_HURRY else [pytest.mark.slow])
        for row in (*DETERMINISTIC, *(row for row in SAMPLED if row.name == "sample:plain"))
    ],
)
def test_sharing(sharing_row):
    with x64(True):  # no ties
        method, model = built(sharing_row, 4, "float64")
        checks.check_sharing(method, model, *sharing_of(SHARED_PROMPTS, SHARED_NODES))
    jax.clear_caches()


def test_every_named_method_has_a_row():
    rows = {row.name.partition(":")[0] for row in (*DETERMINISTIC, *SAMPLED)}
    assert set(METHODS) <= rows


@pytest.mark.parametrize("any_row", [*DETERMINISTIC, *SAMPLED], ids=identifier)
def test_what_is_declared_is_what_is_checked(any_row):
    """Exact texts are checked for whoever declares them, laws for whoever declares only those."""
    method = any_row.build(((0,) * BUDGET,) * 4)
    if any_row.expected is not None:
        assert method.guarantee == Guarantee.TOKEN_IDENTICAL
    else:
        assert method.guarantee in (Guarantee.DISTRIBUTION, Guarantee.TOKEN_IDENTICAL)
    assert method.reference in ("greedy decoding", "sampling", "beam search", "diverse beam search")


@pytest.mark.parametrize("name", ["prompt_lookup", pytest.param("suffix_retrieval", marks=pytest.mark.slow)])
def test_exact_match_draws_the_text_of_plain_sampling(name):
    """Deterministic guesses verified by exact match promise more than the law: the very text of the same seed."""
    law_row = next(row for row in SAMPLED if row.name == f"{name}:processed")
    method, model = law_row.build(()), model_of("float32")
    assert method.guarantee == Guarantee.TOKEN_IDENTICAL
    model = model.accompanied(**law_row.companions(model, NO_SCRIPT))
    prompt = Prompt.create(batch(4)[0], 10, seed=5, eos_tokens=checks.NO_ENDS)
    plain, other = decode(Autoregressive(law_row.law), model, prompt), decode(method, model, prompt)
    assert [checks.texts_of(plain, i) for i in range(4)] == [checks.texts_of(other, i) for i in range(4)]
