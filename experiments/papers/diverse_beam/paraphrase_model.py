"""The first model: a small transformer that puts meanings into words, trained here (:mod:`experiments.papers.paraphrases`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.papers.paraphrases import Meaning, draw, encode_sentence, encode_story, vocabulary
from experiments.papers.progress import Progress
from jaxdec.language_model import LanguageModel
from jaxdec.models import DecoderConfig, Transformer
from jaxdec.training import fit, next_token_loss
from jaxdec.training.next_token import Texts

LONGEST_CLAUSE = 12  # words, and the "and" or the end behind them
HEADS = 4


def prompt_length(num_clauses: int) -> int:
    """Tokens of the prompt of a story."""
    return 4 * num_clauses + 1


def untrained_model(config: Mapping[str, Any], seed: int) -> LanguageModel:
    """The transformer with random weights."""
    hidden = config["hidden_size"]
    module = Transformer(
        DecoderConfig(
            architecture="llama",
            vocab_size=len(vocabulary()),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_layers=config["num_layers"],
            num_heads=HEADS,
            num_kv_heads=HEADS,
            head_dim=hidden // HEADS,
            max_position_embeddings=64,
        )
    )
    zeros = jnp.zeros((1, 1), jnp.int32)
    return LanguageModel(module, module.init(jax.random.key(seed), zeros, zeros, module.init_cache(1, 2))["params"])


def batch_maker(meanings: Sequence[Meaning], num_clauses: int, batch_size: int, seed: int) -> Callable[[int], Texts]:
    """Return the function from an update's number to its batch: stories of random meanings, a sentence drawn for each."""
    begin = prompt_length(num_clauses)

    def batch_at(step: int) -> Texts:
        rng = np.random.default_rng((seed, step))
        tokens = np.zeros((batch_size, begin + LONGEST_CLAUSE * num_clauses), np.int32)
        weights = np.zeros(tokens.shape, np.float32)
        for row, indices in enumerate(rng.integers(0, len(meanings), (batch_size, num_clauses))):
            story = tuple(meanings[index] for index in indices)
            words = encode_sentence(draw(story, rng))
            tokens[row, : begin + len(words)] = encode_story(story) + words
            weights[row, begin : begin + len(words)] = 1
        return Texts(jnp.asarray(tokens), jnp.asarray(weights))

    return batch_at


def trained_model(
    config: Mapping[str, Any],
    task: Mapping[str, Any],
    seed: int,
    meanings: Sequence[Meaning],
    folder: Path,
    progress: Progress,
) -> LanguageModel:
    """Train for a task, or go on training from the checkpoint in ``folder``."""
    steps = task["train_steps"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, config["learning_rate"], min(100, steps // 4), steps)
    with progress.task(f"training, {task['num_clauses']} in a story", steps) as advance:
        return fit(
            next_token_loss,
            optax.adamw(schedule),
            untrained_model(config, seed),
            batch_maker(meanings, task["num_clauses"], config["train_batch"], seed),
            steps,
            folder=folder,
            on_step=lambda step, loss: advance(f"loss {loss:.3f}"),
        )
