"""What is measured: surprisals of continuations and answers, ratios of important tokens, bytes, and times of prefill."""

import argparse
import difflib
import heapq
import inspect
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.precision_texts import source_texts
from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes.texts import needles
from experiments.papers.shared_prefixes.timing import in_turns
from experiments.papers.token_sparsity.arms import DENSE, Rules
from jaxdec.context_rules import with_rules
from jaxdec.decoding import Prompt
from jaxdec.decoding.long_prompts import feed_only
from jaxdec.decoding.prefill import feed_prompt
from jaxdec.evaluation.continuation import score_continuations
from jaxdec.evaluation.perplexity import windows
from jaxdec.language_model import LanguageModel

LONG = 2000  # characters: topics of documentation that are more than a paragraph
Text = tuple[list[int], list[int]]
"""A prompt and what follows."""


def needle_texts(encode: Any, tokens: int, seeds: Sequence[int], asked: int) -> list[Text]:
    """Prompts that ask for a fact in a filler, and its answer; ``asked`` of eight facts per seed."""
    texts = []
    for seed in seeds:
        prompts, answers = needles(encode, tokens, seed)
        texts += [(prompt, encode(f" {answer}.")) for prompt, answer in list(zip(prompts, answers))[:asked]]
    return texts


def cache_texts(encode: Any, tokens: int, after: int, count: int) -> list[Text]:
    """Windows of prose, documentation and code; as many of each as it has, at most ``count``.

    The prose is that of :mod:`experiments.evaluation.precision_texts`, the others are longer texts of the same kind.
    """
    from pydoc_data.topics import topics

    texts = (
        source_texts()["passages"],
        "\n\n".join(topics[name] for name in sorted(topics) if len(topics[name]) > LONG),
        "\n\n".join(map(inspect.getsource, (heapq, argparse, difflib, statistics))),
    )
    cut = [windows(encode(text, add_bos=False), tokens + after)[:count] for text in texts]
    return [(row[:tokens].tolist(), row[tokens:].tolist()) for rows in cut for row in rows]


def prompt_of(prompt: Sequence[int], new_tokens: int, rules: Rules, seed: int) -> Prompt:
    """One prompt by rules."""
    return with_rules(Prompt.create([list(prompt)], new_tokens, seed=seed), **rules)


def scores_part(
    model: LanguageModel, texts: Sequence[Text], arms: Mapping[str, Rules], seed: int, progress: Progress, name: str
) -> dict[str, Any]:
    """By arm: mean surprisal of what follows each prompt, in nats per token, and whether every token of it is the best."""
    found: dict[str, Any] = {arm: {"surprisal": [], "best": []} for arm in arms}
    with progress.task(name, len(texts) * len(arms)) as advance:
        for arm, rules in arms.items():
            for prompt, after in texts:
                scores = score_continuations(
                    model, prompt_of(prompt, len(after), rules, seed), jnp.asarray([after], jnp.int32)
                )
                found[arm]["surprisal"].append(-float(np.asarray(scores.log_prob, np.float64).mean()))
                found[arm]["best"].append(bool(np.asarray(scores.is_best).all()))
                advance(arm)
    return found


@jax.jit
def _by_layer(model: LanguageModel, prompt: Prompt) -> Any:
    fed: Any = feed_only(model, prompt)[1]
    return jnp.stack(fed.sparsity)


def ratios_part(
    model: LanguageModel, texts: Sequence[Text], arms: Mapping[str, Rules], seed: int, progress: Progress, name: str
) -> dict[str, Any]:
    """By arm and text, per layer: the share of tokens that are important, and of causal cells that are not computed."""
    found: dict[str, Any] = {}
    sparse = {arm: rules for arm, rules in arms.items() if arm != DENSE}
    with progress.task(name, len(texts) * len(sparse)) as advance:
        for arm, rules in sparse.items():
            skipped = []
            for prompt, after in texts:
                skipped.append(np.asarray(_by_layer(model, prompt_of(prompt, len(after), rules, seed)))[:, 0].tolist())
                advance(arm)
            ratios = [[important(share, len(prompt)) for share in row] for row, (prompt, _) in zip(skipped, texts)]
            found[arm] = {"skipped": skipped, "ratio": ratios}
    return found


def important(skipped: float, length: int) -> float:
    """The share ``p / n`` of important tokens from ``1 - p (p + 1) / (n (n + 1))``."""
    cells = max(1 - skipped, 0) * length * (length + 1)
    return float(((1 + 4 * cells) ** 0.5 - 1) / 2 / length)


def bytes_part(model: LanguageModel, text: Text, arms: Mapping[str, Rules], seed: int) -> dict[str, int]:
    """By arm, bytes that the cache of one prompt holds when decoding begins, counted from its arrays.

    In bfloat16, the type that models are served in: of keys and values that have not been packed, that is all under ``dense``.
    """
    prompt, after = text
    module: Any = model.module
    model = model.replace(module=module.clone(dtype=jnp.bfloat16))
    found: dict[str, int] = {}
    for arm, rules in arms.items():

        def note(model: LanguageModel, one: Prompt, arm: str = arm) -> None:
            found[arm] = feed_prompt(model, one)[1].nbytes  # shapes are static: traced, never run

        jax.eval_shape(note, model, prompt_of(prompt, len(after), rules, seed))
    return found


def prefill_part(
    model: LanguageModel,
    prompts: Mapping[int, Sequence[int]],
    arms: Mapping[str, Rules],
    rounds: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """By length: milliseconds of the prefill of one prompt under each arm, in turns."""
    cases = []
    with progress.task("times of prefill", len(prompts)) as advance:
        for length, prompt in prompts.items():
            sides = {}
            for arm, rules in arms.items():
                one = prompt_of(prompt, 16, rules, 0)
                feed = jax.jit(feed_prompt)

                def call(passes: int, feed: Any = feed, one: Prompt = one) -> None:
                    for _ in range(passes):
                        feed(model, one)[0].block_until_ready()

                sides[arm] = call
            cases.append({"length": length, **in_turns(sides, rounds, 0.01)})
            advance(f"{length} tokens")
    return cases
