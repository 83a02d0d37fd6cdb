"""Scores of given continuations, against one dense pass over prompt and continuation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.context_rules import with_rules
from jaxdec.decoding import Prompt
from jaxdec.evaluation.continuation import score_continuations
from tests.tiny_models import tiny_transformer

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 41, length).tolist() for length in (40, 23)]
NEXT = jnp.asarray(RNG.integers(0, 41, (2, 5)))


@pytest.mark.slow
def test_scores_are_those_of_one_pass():
    model = tiny_transformer(scale=4.0)
    prompt = Prompt.create(PROMPTS, 5)
    scores = score_continuations(model, prompt, NEXT)
    for row, text in enumerate(PROMPTS):
        tokens = jnp.asarray([*text, *NEXT[row].tolist()])[None]
        cache = model.init_cache(1, tokens.shape[1])
        output = jax.jit(lambda *arguments: model(*arguments))(tokens, jnp.arange(tokens.shape[1])[None], cache)
        logits = output.logits[0, len(text) - 1 : -1]
        expected = jax.nn.log_softmax(logits)[np.arange(5), NEXT[row]]
        np.testing.assert_allclose(scores.log_prob[row], expected, atol=1e-4)
        assert scores.is_best[row].tolist() == (logits.argmax(-1) == NEXT[row]).tolist()


@pytest.mark.slow
def test_a_rule_changes_them():
    model = tiny_transformer(scale=4.0)
    prompt = Prompt.create(PROMPTS, 5)
    plain = score_continuations(model, prompt, NEXT).log_prob
    rule = {"kv_cache": "snapkv:capacity=6,window=4,sinks=1,local=2,kernel=3"}
    tight = score_continuations(model, with_rules(prompt, **rule), NEXT).log_prob
    np.testing.assert_allclose(tight[:, 0], plain[:, 0], atol=1e-4)  # the first token comes from the whole prompt
    assert np.abs(tight[:, 1:] - plain[:, 1:]).max() > 0.05
