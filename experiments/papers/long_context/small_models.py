"""Small transformers of several sizes that learn the token tasks (:mod:`jaxdec.evaluation.long_context.token_tasks`) here.

What makes minutes on two cores enough: a statement is found again by one circuit in all tasks (a head that looks at the token
before, and one that looks for it: Olsson et al. 2022, arXiv 2209.11895), and heads begin close to that; training begins with
texts in which most statements come again, and training prompts ask for all keys; prompts grow from stage to stage, so that most
updates are cheap. The last stage mixes the lengths of the test.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.papers.progress import Progress
from jaxdec.evaluation.long_context.token_tasks import (
    BOS,
    FIRST_SYMBOL,
    NUM_SYMBOLS,
    PAD,
    SET,
    TASKS,
    VOCAB_SIZE,
    TokenTaskSizes,
    token_sample,
)
from jaxdec.language_model import LanguageModel
from jaxdec.models import DecoderConfig, Transformer
from jaxdec.training import fit, next_token_loss
from jaxdec.training.next_token import Texts

ROPE_THETA = 1e6
LOOK_BACK = 12.0
QUIET = 0.1
RECALL_LENGTH = 49
RECALL_KEYS = 6


def untrained_model(size: Mapping[str, Any], seed: int) -> LanguageModel:
    """Random weights, set so that what they are to learn is near; see :func:`_begin_attention`."""
    hidden, heads = size["hidden_size"], size["num_heads"]
    config = DecoderConfig(
        architecture="qwen2",
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_layers=size["num_layers"],
        num_heads=heads,
        num_kv_heads=heads // 2,
        head_dim=hidden // heads,
        max_position_embeddings=2048,
        rope_theta=ROPE_THETA,
        attention_bias=True,
    )
    module = Transformer(config)
    zeros = jnp.zeros((1, 1), jnp.int32)
    params = module.init(jax.random.key(seed), zeros, zeros, module.init_cache(1, 2))["params"]
    params = jax.tree.map(lambda w: w / (0.02 * w.shape[1] ** 0.5) if w.ndim == 2 else w, params)
    for layer in range(config.num_layers):
        attention = params[f"layer_{layer}"]["attention"]
        weight, bias, output = _begin_attention(np.array(attention["qkv"]["weight"]), config, layer)
        attention["qkv"] = {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}
        attention["output"] = {"weight": jnp.asarray(output)}
        down = params[f"layer_{layer}"]["mlp"]["down"]
        down["weight"] = down["weight"] * QUIET
    return LanguageModel(module, params)


def _begin_attention(
    weight: np.ndarray, config: DecoderConfig, layer: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads that begin by looking for their own token and copy what they find; in the first layer half look one token back.

    Queries begin with the weights of the keys and the output with the transpose of the values (mimetic initialisation: Trockman
    & Kolter 2023, arXiv 2305.09828). The biases of a head that looks back differ by the rotation of one position, in the two
    quickest pairs of channels: ``score(distance) ~ cos(w_0 (distance - 1)) + cos(w_1 (distance - 1))``.
    """
    heads, groups, width = config.num_heads, config.num_kv_heads, config.head_dim
    rows = weight.reshape(heads + 2 * groups, width, -1).copy()
    bias = np.zeros((heads + 2 * groups, width), np.float32)
    rows[:heads] = np.repeat(rows[heads : heads + groups], heads // groups, axis=0)
    if layer == 0:
        frequency = config.rope_theta ** (-2 * np.arange(2) / width)
        strength = (LOOK_BACK * width**0.5) ** 0.5
        for group in range(groups // 2):
            queries, key = slice(2 * group, 2 * group + 2), heads + group
            rows[queries] *= 0.1
            rows[key] *= 0.1
            bias[key, :2] = strength
            bias[queries, :2] = strength * np.cos(frequency)
            bias[queries, width // 2 : width // 2 + 2] = -strength * np.sin(frequency)
    values = np.repeat(rows[heads + groups :], heads // groups, axis=0)
    return rows.reshape(weight.shape), bias.reshape(-1), values.reshape(heads * width, -1).T


def batch_maker(stages: Sequence[Mapping[str, Any]], sizes: TokenTaskSizes, seed: int) -> Callable[[int], Texts]:
    """Return the function from an update's number to its batch.

    Args:
      stages: in order; each with its ``steps``, the ``lengths`` of prompts that its updates take in turns, and ``tokens`` of a
        batch, about. Length 0 stands for texts of statements that come again (:func:`recall_text`).
      sizes: of the test. Training prompts have no more of anything, and ask for all pairs.
      seed: of the texts.
    """
    ends = np.cumsum([stage["steps"] for stage in stages])

    def batch_at(step: int) -> Texts:
        stage = stages[min(int(np.searchsorted(ends, step, side="right")), len(stages) - 1)]
        length = stage["lengths"][step % len(stage["lengths"])]
        rng = np.random.default_rng((seed, step))
        fits = training_sizes(sizes, length)
        width = length + 2 * fits.pairs + 1 if length else RECALL_LENGTH
        rows = max(len(TASKS), stage["tokens"] // width)
        texts, weights = np.full((rows, width), PAD, np.int32), np.zeros((rows, width), np.float32)
        for row in range(rows):
            if not length:
                texts[row], weights[row] = recall_text(rng)
                continue
            sample = token_sample(TASKS[row % len(TASKS)], length, rng, fits, asked=bool(rng.integers(2)))
            end = length + len(sample.answer)
            texts[row, :length], texts[row, length:end] = sample.prompt, sample.answer
            weights[row, length:end] = np.logical_not(sample.given)
        return Texts(jnp.asarray(texts), jnp.asarray(weights))

    return batch_at


def recall_text(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Statements of few keys, again and again; and where a value is to be known, as its key was there before."""
    keys, values = (FIRST_SYMBOL + rng.permutation(NUM_SYMBOLS)[: 2 * RECALL_KEYS]).reshape(2, -1)
    drawn = rng.integers(0, RECALL_KEYS, RECALL_LENGTH // 3)
    text = np.full(RECALL_LENGTH, BOS, np.int32)
    text[1::3], text[2::3], text[3::3] = SET, keys[drawn], values[drawn]
    known = np.ones(len(drawn), np.float32)
    known[np.unique(drawn, return_index=True)[1]] = 0
    weights = np.zeros(RECALL_LENGTH, np.float32)
    weights[3::3] = known
    return text, weights


def training_sizes(sizes: TokenTaskSizes, length: int) -> TokenTaskSizes:
    """As many things as the test has, or as fit a shorter prompt; all pairs are asked for."""
    length = max(length, 64)
    pairs = min(sizes.pairs, (length - 4) // 4)
    chains = min(sizes.chains, (length - 5) // (3 * sizes.hops))
    words = min(sizes.words, length - 4 - (sizes.ratio - 1) * sizes.common)
    return dataclasses.replace(sizes, pairs=pairs, queries=pairs, chains=chains, words=words)


def trained_model(
    config: Mapping[str, Any],
    size: Mapping[str, Any],
    sizes: TokenTaskSizes,
    seed: int,
    folder: Path,
    progress: Progress,
) -> LanguageModel:
    """Train, or go on from the checkpoint in ``folder``."""
    steps = sum(stage["steps"] for stage in config["stages"])
    warm_up = max(1, min(50, steps // 4))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, size["learning_rate"], warm_up, steps, 0.05 * size["learning_rate"]
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))
    with progress.task(f"training, {size['num_layers']} layers of {size['hidden_size']}", steps) as advance:
        return fit(
            next_token_loss,
            optimizer,
            untrained_model(size, seed),
            batch_maker(config["stages"], sizes, seed),
            steps,
            folder=folder,
            save_every=max(1, steps // 4),
            on_step=lambda step, loss: advance(f"loss {loss:.3f}"),
        )
