"""Methods keep their promises where keys and values lie in pages, and wrong page tables are caught."""

import jax
import pytest

from jaxdec.decoding import Prompt
from jaxdec.kv_layout import in_layout
from tests.contracts import checks, wrong
from tests.contracts.table import DETERMINISTIC, PROMPTS, SAMPLED, identifier, x64
from tests.contracts.test_contracts import (
    RAGGED_BUDGETS,
    SHARED_NODES,
    SHARED_PROMPTS,
    built,
    end_tokens,
    model_of,
    sharing_of,
)
from tests.contracts.test_negative_controls import fails, ragged

PAGE = 8  # so that short texts have several, and budgets and draft trees end anywhere in one
ALSO_IN_A_HURRY = {"beam"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(row, id=identifier(row), marks=[] if row.name in ALSO_IN_A_HURRY else [pytest.mark.slow])
        for row in (*DETERMINISTIC, *(row for row in SAMPLED if row.name == "sample:plain"))
    ],
)
def row(request):
    yield request.param
    jax.clear_caches()


def test_text(row):
    ends = list(end_tokens("float32")) if row.law is None else checks.NO_ENDS
    checks.check_paging(*built(row, 4), ragged(eos_tokens=ends), PAGE)


def test_cache(row):
    prompt = ragged(eos_tokens=list(end_tokens("float32")))
    checks.check_cache(*built(row, 4), in_layout(prompt, "paged", PAGE), tolerance=1e-4)


def test_unused_slots(row):
    checks.check_unused_slots(*built(row, 4), in_layout(ragged(), "paged", PAGE))


@pytest.mark.slow
def test_with_shared_prefixes(row):
    with x64(True):  # no ties
        prompt, sharing = sharing_of(SHARED_PROMPTS, SHARED_NODES)
        checks.check_paging(*built(row, 4, "float64"), prompt.replace(sharing=sharing), PAGE)


def test_traces(row):
    """Where pages lie is data: batches with as many pages share one program."""
    first = Prompt.create([list(prompt) for prompt in PROMPTS], RAGGED_BUDGETS, eos_tokens=[3, 5], seed=1)
    second = Prompt.create([[1] * 17, [2], [3], [4, 4]], [3, 9, 2, 15], eos_tokens=[7, 8], seed=2)
    checks.check_traces(*built(row, 4), [in_layout(prompt, "paged", 16) for prompt in (first, second)])


@pytest.mark.parametrize(("method", "damaged"), [(wrong.SharesAPage(), 1), (wrong.TakesPages(), 2)])
def test_wrong_page_tables_are_caught(method, damaged):
    message = fails(checks.check_paging, method, model_of("float32"), ragged(), PAGE)
    assert "another text when keys lie in pages" in message
    paged = in_layout(ragged(), "paged", PAGE)
    assert f"row {damaged} after step" in fails(checks.check_cache, method, model_of("float32"), paged, tolerance=1e-4)
