"""The speculative engine with drafters that are always right, always wrong, and random."""

import numpy as np
import pytest

from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode
from jaxdec.decoding.speculative import PromptLookup, Speculative
from tests.decoding.speculative.drafters import RandomTrees, Scripted
from tests.tiny_models import tiny_transformer

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3], [7, 7, 7]]
BUDGET = 24


def script(decoded):
    return tuple(map(tuple, decoded.tokens[:, 0].tolist()))


def assert_same_text(decoded, expected):
    np.testing.assert_array_equal(decoded.length, expected.length)
    for row in range(expected.tokens.shape[0]):
        length = int(expected.length[row, 0])
        assert decoded.tokens[row, 0, :length].tolist() == expected.tokens[row, 0, :length].tolist()
    np.testing.assert_allclose(decoded.log_prob, expected.log_prob, atol=1e-3)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=0.9, top_p=0.9)])
@pytest.mark.parametrize("drafter", ["oracle", "adversary", "random", "lookup", "lookup latest"])
def test_text_is_that_of_plain_decoding(drafter, sampling):
    model = tiny_transformer(scale=4.0)
    prompt = Prompt.create(PROMPTS, [BUDGET, 5, 17, 1], eos_tokens=[11], seed=3)
    expected = decode(Autoregressive(sampling), model, prompt)
    vocab = model.vocab_size
    drafters = {
        "oracle": Scripted(script(expected), 4, vocab),
        "adversary": Scripted(script(expected), 4, vocab, shift=1),
        "random": RandomTrees(script(expected), 12, 5, vocab),
        "lookup": PromptLookup(num_nodes=3, max_ngram=2),
        "lookup latest": PromptLookup(num_nodes=3, max_ngram=2, prefer="latest"),
    }
    assert_same_text(decode(Speculative(drafters[drafter], sampling), model, prompt), expected)


def test_an_oracle_emits_depth_plus_one_tokens_per_call():
    model = tiny_transformer()
    prompt = Prompt.create(PROMPTS, 21)
    expected = decode(Autoregressive(), model, prompt)
    decoded = decode(Speculative(Scripted(script(expected), 4, model.vocab_size)), model, prompt)
    assert_same_text(decoded, expected)
    assert decoded.target_calls.tolist() == [[1 + 20 // 5]] * 4


def test_an_adversary_costs_one_call_per_token():
    model = tiny_transformer()
    prompt = Prompt.create(PROMPTS, 9)
    expected = decode(Autoregressive(), model, prompt)
    decoded = decode(Speculative(Scripted(script(expected), 4, model.vocab_size, shift=1)), model, prompt)
    assert decoded.target_calls.tolist() == [[9]] * 4
