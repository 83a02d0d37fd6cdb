"""A draft model for SmolLM2-135M, distilled from it: some of its layers, trained to say what all of them say.

No licensed pair of a large and a small model of one vocabulary can be installed with pip, so the small one is made here. It
begins as a few of the target's layers (its embeddings and head stay as they are) and learns the target's laws on texts that the
target wrote itself, answers to prompts made of templates: half of them greedy, half sampled. None of the prompts is among
those that methods are compared on. DistillSpec (Zhou et al. 2024, arXiv 2310.08461) on the scale of two processor cores.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.papers.progress import Progress
from jaxdec.decoding import Autoregressive, Prompt, Sampling, decode
from jaxdec.generation import encode_prompt
from jaxdec.language_model import LanguageModel
from jaxdec.loading import LoadedModel
from jaxdec.models.layer_skip import skip_layers
from jaxdec.models.linear import linear
from jaxdec.training import SequenceCache, all_but, distillation_loss, fit
from jaxdec.training.distillation import Taught
from jaxdec.typing import Array, Float, Int

REQUESTS = (
    "Explain {} to a beginner.",
    "Write three sentences about {}.",
    "Give me a short list of facts about {}.",
    "Write a short story in which {} matters.",
    "What should everybody know about {}?",
    "Write a Python function that has to do with {}, and explain it.",
    "Answer in one paragraph: why do people care about {}?",
    "Summarize what is known about {}.",
    "Compose a polite letter about {}.",
    "Make up an exercise about {} and solve it step by step.",
)
TOPICS = (
    "a garden", "the moon", "a broken clock", "the price of bread", "a long train journey", "coffee", "a school class",
    "the weather", "old maps", "a football match", "the human heart", "a small bakery", "rivers", "a list of numbers",
    "the sorting of books", "a lost key", "electric cars", "a birthday party", "the history of paper", "ants",
    "a calendar", "the sum of two numbers", "mountains", "a noisy neighbour", "the average of marks", "cheese",
    "a library", "sailing", "the letters of a word", "a winter coat", "music lessons", "the area of a field",
)  # fmt: skip


def teaching_prompts(count: int, seed: int) -> list[str]:
    """``count`` different prompts, in random order.

    Raises:
      ValueError: more than there are.
    """
    most = len(REQUESTS) * len(TOPICS)
    if count > most:
        raise ValueError(f"num_texts must be at most {most}, got {count}")
    chosen = np.random.default_rng(seed).permutation(most)[:count]
    return [REQUESTS[index % len(REQUESTS)].format(TOPICS[index // len(REQUESTS)]) for index in chosen.tolist()]


def teaching_texts(lm: LoadedModel, config: Mapping[str, Any], seed: int, progress: Progress) -> list[dict[str, Any]]:
    """What the target answers: ``{"prompt": ids, "tokens": ids}``, batch by batch greedy and sampled in turns."""
    prompts = [encode_prompt(lm, text, raw=False) for text in teaching_prompts(config["num_texts"], seed)]
    size, texts = config["write_batch"], []
    shape = Prompt.create(prompts, config["new_tokens"])
    with progress.task("teaching texts", -(-len(prompts) // size)) as advance:
        for number, begin in enumerate(range(0, len(prompts), size)):
            rows = [prompts[min(begin + row, len(prompts) - 1)] for row in range(size)]
            prompt = Prompt.create(
                rows, config["new_tokens"], eos_tokens=lm.tokenizer.eos_token_ids, seed=seed + number
            )
            width = shape.tokens.shape[1] - prompt.tokens.shape[1]
            prompt = prompt.replace(tokens=jnp.pad(prompt.tokens, ((0, 0), (0, width))), capacity=shape.capacity)
            sampling = Sampling(temperature=float(number % 2))
            decoded = decode(Autoregressive(sampling), lm.model, prompt)
            ids, length = np.asarray(decoded.tokens)[:, 0], np.asarray(decoded.length)[:, 0]
            texts += [
                {"prompt": row, "tokens": new[:count].tolist()} for row, new, count in zip(rows, ids, length.tolist())
            ]
            advance("")
    return texts[: len(prompts)]


def distilled_draft(
    target: LanguageModel,
    texts: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    seed: int,
    folder: Path,
    progress: Progress,
) -> LanguageModel:
    """Train the draft model, or go on from the checkpoint in ``folder``.

    Args:
      target: the teacher.
      texts: see :func:`teaching_texts`.
      config: ``layers`` of the target to begin with, ``steps``, ``batch`` texts a step, ``learning_rate``, ``longest`` text.
      seed: of the order of the texts.
      folder: for checkpoints.
      progress: shown while it trains.
    """
    steps, student = config["steps"], skip_layers(target, tuple(config["layers"]))
    warm_up = max(1, min(20, steps // 4))
    optimizer = all_but(
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, config["learning_rate"], warm_up, steps)), "embed"
    )
    with progress.task("distilling the draft model", steps) as advance:
        return fit(
            distillation_loss,
            optimizer,
            student,
            batch_maker(target, texts, config["longest"], config["batch"], seed),
            steps,
            folder=folder,
            save_every=max(1, steps // 4),
            on_step=lambda step, loss: advance(f"divergence {loss:.3f} nats"),
        )


def batch_maker(
    target: LanguageModel, texts: Sequence[Mapping[str, Any]], longest: int, size: int, seed: int
) -> Callable[[int], Taught]:
    """Return the function from an update's number to its batch: texts in an order drawn anew for every epoch.

    Laws behind the answers and behind the prompt's last token are taught, those inside the prompt are not.
    """
    tokens = np.zeros((len(texts), longest), np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    for row, text in enumerate(texts):
        ids = [*text["prompt"], *text["tokens"]][:longest]
        tokens[row, : len(ids)] = ids
        weights[row, len(text["prompt"]) - 1 : len(ids)] = 1
    epoch_length = max(1, len(texts) // size)

    @functools.cache
    def hidden(row: int) -> np.ndarray:
        """A pass over all layers costs more than the head: it is made once a text."""
        return np.asarray(_hidden(target, jnp.asarray(tokens[row : row + 1])))[0]

    def batch_at(step: int) -> Taught:
        epoch, place = divmod(step, epoch_length)
        order = np.random.default_rng((seed, epoch)).permutation(len(texts))
        rows = np.resize(order, epoch_length * size)[place * size : (place + 1) * size]
        logits = _head(target, jnp.asarray(np.stack([hidden(row) for row in rows.tolist()])))
        return Taught(jnp.asarray(tokens[rows]), jnp.asarray(weights[rows]), logits)

    return batch_at


@jax.jit
def _hidden(target: LanguageModel, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    one = jnp.zeros((batch, 1), jnp.int32)
    return target(tokens, positions, SequenceCache.create(batch), logits_at=one).hidden


@jax.jit
def _head(target: LanguageModel, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Logits of final hidden states."""
    head = target.params.get("head")
    return linear(hidden, target.token_embeddings() if head is None else head["weight"])
