"""Plain decoding against a loop that feeds the whole text again for every token."""

import numpy as np
import pytest

from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import greedy_reference
from tests.tiny_models import tiny_transformer

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3]]


def test_greedy_equals_decoding_without_a_cache():
    model = tiny_transformer()
    decoded = decode(Autoregressive(), model, Prompt.create(PROMPTS, 12))
    for row, prompt in enumerate(PROMPTS):
        assert decoded.length[row, 0] == 12
        assert decoded.tokens[row, 0, :12].tolist() == greedy_reference(model, prompt, 12)


def test_end_token_and_budgets_stop_rows_exactly():
    model = tiny_transformer()
    texts = [greedy_reference(model, prompt, 12) for prompt in PROMPTS]
    end = texts[0][4]
    decoded = decode(Autoregressive(), model, Prompt.create(PROMPTS, [12, 3, 7], eos_tokens=[end]))
    for row, budget in enumerate([12, 3, 7]):
        expected = texts[row][:budget]
        if end in expected:
            expected = expected[: expected.index(end) + 1]
        assert decoded.tokens[row, 0, : decoded.length[row, 0]].tolist() == expected
        assert decoded.target_calls[row, 0] == len(expected)


def test_samples_of_one_prompt_differ_and_repeat_with_the_seed():
    model = tiny_transformer(scale=2.0)
    method = Autoregressive(Sampling(temperature=1.0), num_samples=3)
    first, again, other = (decode(method, model, Prompt.create(PROMPTS, 10, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any()
    assert len({tuple(text) for text in first.tokens[0, :, :10].tolist()}) == 3


def test_several_greedy_samples_are_refused():
    with pytest.raises(ValueError, match="num_samples is 2 with greedy"):
        Autoregressive(num_samples=2)
