"""Slow and plain references that decoding methods are checked against."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.decoding.state import Decoded
from jaxdec.language_model import LanguageModel


@functools.partial(jax.jit, static_argnums=0)
def _forward(module, params, tokens):
    model = LanguageModel(module, params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model(tokens, positions, model.init_cache(*tokens.shape)).logits


def on_host(decoded: Decoded) -> types.SimpleNamespace:
    """The same fields as NumPy arrays. (The fields of :class:`Decoded` itself are declared, and checked, as jax arrays.)"""
    return types.SimpleNamespace(**{f.name: np.asarray(getattr(decoded, f.name)) for f in dataclasses.fields(decoded)})


def full_logits(model: LanguageModel, text: list[int], padded: int = 64) -> np.ndarray:
    """Logits ``[len(text), V]`` of a text fed whole into an empty cache (padded to one shape, to compile once)."""
    padded = max(padded, len(text))
    tokens = jnp.asarray([text + [0] * (padded - len(text))], jnp.int32)
    return np.asarray(_forward(model.module, model.params, tokens))[0, : len(text)]


def greedy_reference(model: LanguageModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    """Greedy decoding that feeds the whole text again for every token."""
    text = list(prompt)
    for _ in range(max_new_tokens):
        text.append(int(full_logits(model, text)[-1].argmax()))
    return text[len(prompt) :]
