"""Small models under every rule: scores of samples, one by one.

Rules of the prompt see a text whole, its right answer fed with it: what is scored is whether each token of the answer would
have been said, and all attention before it was sparse. Rules of decoding see a prompt fed densely, as in the paper; the
answer is then decoded token by token, greedily, and what is not given goes in as it was said.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.long_context.swept_caches import SweptCache, SweptPrompt
from experiments.papers.long_context.swept_rules import DECODE, DENSE, PREFILL, Setting, rule_of, settings_of
from experiments.papers.progress import Progress
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.evaluation.long_context.token_tasks import TASKS, TokenSample, TokenTaskSizes, score, token_samples
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Int

LONGEST_ANSWER = 12


@functools.partial(jax.jit, static_argnames="rules")
def pass_over(
    model: LanguageModel, texts: Int[Array, "B T"], lengths: Int[Array, "B"], which: Int[Array, ""], rules: tuple
):
    """The likeliest token behind each token of whole texts, ``[B, T]``, and the sparsity of each text, mean over layers."""
    batch, width = texts.shape
    positions = jnp.broadcast_to(jnp.arange(width), texts.shape)
    cache: Any = SweptPrompt(jnp.zeros(batch, jnp.int32), lengths, which, rules)
    logits, _, cache = model(texts, positions, cache)
    return jnp.argmax(logits, axis=-1), jnp.stack(cache.sparsity).mean(axis=0)


@functools.partial(jax.jit, static_argnames="rules")
def feed(model: LanguageModel, prompts: Int[Array, "B S"], rules: tuple) -> SweptCache:
    """Prompts of one length into a cache that knows what every rule keeps of them."""
    batch, length = prompts.shape
    inner = model.init_cache(batch, length + LONGEST_ANSWER)
    assert isinstance(inner, ContiguousCache)
    cache: Any = SweptCache(inner, jnp.full(batch, length, jnp.int32), (), jnp.int32(0), rules)
    last = jnp.full((batch, 1), length - 1)
    positions = jnp.broadcast_to(jnp.arange(length), prompts.shape)
    cache = model(prompts, positions, cache, logits_at=last).cache
    return cache.commit(None, jnp.full(batch, length, jnp.int32))


@jax.jit
def say(
    model: LanguageModel,
    cache: SweptCache,
    which: Int[Array, ""],
    answers: Int[Array, "B A"],
    given: Bool[Array, "B A"],
) -> Int[Array, "B A"]:
    """What is said at every place of the answers; where a token is given, it goes in instead of what was said."""
    start, ones = cache.length, jnp.ones_like(cache.length)

    def step(carry, part):
        said, cache = carry
        number, answer, is_given = part
        token = jnp.where(is_given, answer, said)
        logits, _, cache = model(token[:, None], (start + number)[:, None], cache)
        return (jnp.argmax(logits[:, 0], axis=-1).astype(answer.dtype), cache.commit(None, ones)), said

    places = (jnp.arange(answers.shape[1]), answers.T, given.T)
    first: Any = (jnp.zeros_like(answers[:, 0]), cache.replace(which=which))
    return jax.lax.scan(step, first, places)[1].T


def prefill_scores(
    model: LanguageModel, samples: Sequence[TokenSample], settings: Sequence[Setting], rules: tuple
) -> list[dict[str, Any]]:
    """Scores of each sample, and the mean compression, under every setting."""
    length, answers = len(samples[0].prompt), padded([sample.answer for sample in samples])
    texts = jnp.asarray(np.concatenate([[sample.prompt for sample in samples], answers], axis=1))
    lengths = jnp.asarray([length + len(sample.answer) for sample in samples], jnp.int32)
    found = []
    for number, setting in enumerate(settings):
        likeliest, sparsity = pass_over(model, texts, lengths, jnp.int32(number), rules)
        said = np.asarray(likeliest)[:, length - 1 :]  # behind the last token of the prompt comes the answer's first
        scores = [taught(sample, row[: len(sample.answer)].tolist()) for sample, row in zip(samples, said)]
        found.append(entry(setting, scores, 1 / (1 - float(np.mean(np.asarray(sparsity))))))
    return found


def decode_scores(
    model: LanguageModel, samples: Sequence[TokenSample], settings: Sequence[Setting], rules: tuple
) -> list[dict[str, Any]]:
    """The same for rules of decoding."""
    length = len(samples[0].prompt)
    answers = jnp.asarray(padded([sample.answer for sample in samples]))
    given = jnp.asarray(padded([sample.given for sample in samples], fill=1).astype(bool))
    cache = feed(model, jnp.asarray([sample.prompt for sample in samples]), rules)
    found = []
    for number, (setting, rule) in enumerate(zip(settings, rules)):
        said = np.asarray(say(model, cache, jnp.int32(number), answers, given))
        scores = [
            score(sample, [int(token) for token, fed in zip(row, sample.given) if not fed])
            for sample, row in zip(samples, said)
        ]
        read = length if rule is None else getattr(rule, "budget", getattr(rule, "capacity", length))
        found.append(entry(setting, scores, length / min(read, length)))
    return found


def entry(setting: Setting, scores: Sequence[float], measured: float) -> dict[str, Any]:
    """As JSON."""
    return {"method": setting.method, "nominal": setting.compression, "compression": measured, "scores": list(scores)}


def taught(sample: TokenSample, said: Sequence[int]) -> float:
    """Score of what would have been said at each place with the right answer before it."""
    places = [place for place, given in enumerate(sample.given) if not given]
    right = 0
    for number, place in enumerate(places):
        left = [sample.answer[place]] if sample.ordered else [sample.answer[later] for later in places[number:]]
        right += said[place] in left
    return right / len(places)


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> np.ndarray:
    """Right-padded to the longest answer there is."""
    out = np.full((len(rows), LONGEST_ANSWER), fill, np.int32)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def sweep(
    model: LanguageModel, lengths: Sequence[int], config: Any, sizes: TokenTaskSizes, progress: Progress
) -> list[dict[str, Any]]:
    """All lengths, tasks and rules for one model.

    Args:
      model: a trained one.
      lengths: of prompts.
      config: ``compressions``, ``samples`` per cell, ``seed``.
      sizes: of the tasks.
      progress: shown meanwhile.

    Returns:
      Entries with ``phase``, ``task``, ``length``, ``asked`` (whether the question is in the prompt), ``method``, ``nominal``,
      ``compression`` as measured, and ``scores``.
    """
    phases = {"prefill": (PREFILL, prefill_scores), "decode": (DECODE, decode_scores)}
    found = []
    with progress.task(f"sweep, {model.num_params()} parameters", len(lengths) * (2 * len(TASKS) + 2)) as advance:
        for length in lengths:
            for phase, (methods, measure) in phases.items():
                settings = settings_of(methods, config["compressions"])
                rules = tuple(
                    None if one.method == DENSE else rule_of(one.method, length, one.compression) for one in settings
                )
                for task in TASKS:
                    for asked in (True, False) if phase == "decode" and task != "count" else (True,):
                        samples = token_samples(task, length, config["samples"], config["seed"], sizes, asked=asked)
                        about = {"phase": phase, "task": task, "length": length, "asked": asked}
                        found += [about | one for one in measure(model, samples, settings, rules)]
                        advance(f"{phase}, {task}, {length}")
    return found
