"""The checks must fail where a promise is broken: a suite that cannot fail shows nothing."""

import pytest

from jaxdec.decoding import Autoregressive, BeamSearch, Prompt
from jaxdec.decoding.prefix_sharing import Node
from tests.contracts import checks, wrong
from tests.contracts.table import BUDGET, PLAIN_LAW, PROMPTS, x64
from tests.contracts.test_contracts import (
    RAGGED_BUDGETS,
    SHARED_PROMPTS,
    batch,
    end_tokens,
    greedy_texts,
    model_of,
    sharing_of,
)


def fails(check, *arguments, **options):
    with pytest.raises(AssertionError) as caught:
        check(*arguments, **options)
    return str(caught.value)


def ragged(**options) -> Prompt:
    return Prompt.create(
        [list(prompt) for prompt in PROMPTS], RAGGED_BUDGETS, **{"eos_tokens": checks.NO_ENDS, **options}
    )


@pytest.mark.parametrize("method", [wrong.ForgetsToCommit(), wrong.SharesPositions()])
def test_wrong_texts_are_caught(method):
    expected = [[text] for text in greedy_texts("float32")]
    prompt = Prompt.create([list(prompt) for prompt in PROMPTS], BUDGET)
    fails(checks.check_text, method, model_of("float32"), prompt, expected, checks.TIE["float32"])


@pytest.mark.parametrize("method", [wrong.ForgetsToCommit(), wrong.SharesPositions(), wrong.SharesOneCacheRow(3)])
def test_wrong_caches_are_caught(method):
    fails(checks.check_cache, method, model_of("float32"), ragged(), tolerance=1e-4)


@pytest.mark.parametrize("method", [wrong.OneTooMany(), wrong.DeafToEndTokens(), wrong.Restless()])
def test_wrong_ends_are_caught(method):
    prompt = ragged(eos_tokens=list(end_tokens("float32")))
    fails(checks.check_stopping, method, model_of("float32"), prompt)


@pytest.mark.parametrize("method", [wrong.CountsTooFew(), wrong.RecordsProcessedScores()])
def test_wrong_statistics_are_caught(method):
    fails(checks.check_statistics, method, model_of("float32"), ragged())


def test_reading_unused_slots_is_caught():
    fails(checks.check_unused_slots, wrong.ReadsUnusedSlots(), model_of("float32"), ragged())


def test_sharing_what_is_not_shared_is_caught():
    """The last row is said to begin like the others, and does not."""
    prompts = [*SHARED_PROMPTS[:3], tuple(token + 1 for token in SHARED_PROMPTS[0])]
    with x64(True):
        message = fails(
            checks.check_sharing, Autoregressive(), model_of("float64"), *sharing_of(prompts, [[Node(0, 4, 0, 6)]])
        )
    assert "prompt 3: another text when prefixes are shared" in message


def test_depending_on_the_batch_is_caught():
    prompts = batch(4)[0]
    assert "depends on its batch" in fails(
        checks.check_independence, wrong.ReadsItsBatch(), model_of("float32"), prompts, BUDGET
    )


def test_shapes_that_depend_on_data_are_caught():
    prompts = [Prompt.create([[1] * length], 5) for length in (3, 30)]  # two buckets
    fails(checks.check_traces, BeamSearch(2), model_of("float32"), prompts)


@pytest.mark.parametrize("method", [wrong.TooCold(PLAIN_LAW), wrong.OneKeyForAll(PLAIN_LAW)])
def test_wrong_laws_are_caught(method):
    fails(checks.check_law, method, PLAIN_LAW)


def test_the_batch_minimum_rule_is_caught():
    """The same drafts under the right rule pass (a row of the table); the batch-minimum rule fails in a batch."""
    assert "chi-square" in fails(checks.check_law, wrong.batch_minimum(PLAIN_LAW), PLAIN_LAW)
