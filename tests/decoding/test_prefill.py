"""Feeding prompts: in one piece or in chunks, ragged, the logits are those of each prompt alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding import chunks as module
from jaxdec.decoding.prefill import prefill
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer


@jax.jit
def fed_alone(model, tokens):
    """The cache of a prompt that is fed whole."""
    return model(tokens, jnp.arange(tokens.shape[1])[None], model.init_cache(1, 40)).cache


@pytest.mark.parametrize(
    "largest_chunk", [pytest.param(64, marks=pytest.mark.slow), 16, pytest.param(7, marks=pytest.mark.slow), 1]
)
def test_logits_and_cache_are_those_of_each_prompt_alone(largest_chunk, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_CHUNK", largest_chunk)
    model = tiny_transformer(scale=4.0)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, model.vocab_size, n).tolist() for n in (1, 7, 16, 23)]
    tokens = jnp.asarray([prompt + [40] * (23 - len(prompt)) for prompt in prompts], jnp.int32)
    length = jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)
    logits, cache = prefill(model, tokens, length, 40)
    assert cache.length.tolist() == [1, 7, 16, 23]
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(logits[row], full_logits(model, prompt)[-1], atol=1e-3)
        alone = fed_alone(model, jnp.asarray([prompt], jnp.int32))
        for kept, wanted in zip(cache.keys + cache.values, alone.keys + alone.values):
            here, there = kept[row, :, : len(prompt)], wanted[0, :, : len(prompt)]
            np.testing.assert_allclose(here, there, atol=1e-4)
