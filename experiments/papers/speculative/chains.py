"""Draft models as chains: tokens per step against the formula, acceptance against ``sum min(p, q)``, temperature."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.speculative.arms import Arm, counts_of, decode_counted, tokens_per_step
from jaxdec.decoding import Prompt, Sampling, stream
from jaxdec.decoding.speculative import DraftModel
from jaxdec.evaluation.acceptance import expected_tokens_per_call
from jaxdec.language_model import LanguageModel
from jaxdec.training import SequenceCache
from jaxdec.typing import Array, Float, Int

STEPS_BETWEEN_NOTES = 16


def chain_results(
    draft: str, model: LanguageModel, prompt: Prompt, batch: int, lengths: Sequence[int], progress: Progress
) -> list[dict[str, Any]]:
    """Greedy chains of a draft model.

    Returns:
      Per length ``g``: ``a`` (guesses accepted, of those behind an accepted one), ``measured`` tokens per step, ``formula``
      with that ``a``, and ``tokens_per_call`` (budgets and prefills included).
    """
    results = []
    for length in lengths:
        arm = Arm(f"chain of {length}", DraftModel((1,) * length), draft)
        texts = decode_counted(arm, Sampling(0.0), model, prompt, batch, draft, progress)
        counts = counts_of(texts)
        chance = counts.chain_chance or 0.0
        results.append(
            {
                "g": length,
                "a": chance,
                "measured": tokens_per_step(counts, len(texts)),
                "formula": expected_tokens_per_call([chance] * length),
                "tokens_per_call": counts.tokens_per_call,
            }
        )
    return results


def overlap_results(
    arm: Arm, model: LanguageModel, prompt: Prompt, batch: int, temperature: float, progress: Progress
) -> dict[str, float]:
    """A chain drawn from the draft model's law: is the first guess accepted as often as ``sum min(p, q)`` says?

    Both are taken at the very contexts in which the first guess of a step was made, so that they differ by chance alone.

    Returns:
      ``steps``, ``accepted`` (share of first guesses), ``overlap`` (mean of ``sum min(p, q)``), ``deviation`` (standard
      deviation of ``accepted`` if ``overlap`` is right), and ``tokens_per_step``.
    """
    from experiments.papers.speculative.arms import counted, rows_of

    sampling = Sampling(temperature)
    method = arm.method(sampling)
    draft = model.companions["draft"]
    overlaps: list[float] = []
    found: list[dict[str, Any]] = []
    total = prompt.tokens.shape[0]
    with progress.task(f"{arm.draft}: overlap at temperature {temperature:g}", -(-total // batch)) as advance:
        for begin in range(0, total, batch):
            rows = list(range(begin, min(begin + batch, total)))
            lengths, state, before = [[] for _ in rows], None, None
            for state in stream(method, model, rows_of(prompt, rows)):
                now, done = np.asarray(state.length), np.asarray(state.done)
                if before is not None:  # the step just made began here
                    for row in np.flatnonzero(~before[1]).tolist():
                        lengths[row].append(int(before[0][row]))
                before = (now.copy(), done.copy())
            assert state is not None
            found += counted(method, state)
            most = int(prompt.max_new_tokens.max())
            for row, places in enumerate(lengths):
                last = jnp.asarray((places + [1] * most)[:most]) - 1
                values = _overlap(
                    model.replace(companions={}), draft, state.tokens[row : row + 1], last[None], temperature
                )
                overlaps += np.asarray(values)[: len(places)].tolist()
            advance("")
    counts = counts_of(found)
    steps = counts.target_calls - len(found)
    assert steps == len(overlaps)
    each = np.asarray(overlaps)
    return {
        "steps": steps,
        "accepted": counts.accepted[0] / steps,
        "overlap": float(each.mean()),
        "deviation": float(np.sqrt((each * (1 - each)).sum()) / steps),
        "tokens_per_step": tokens_per_step(counts, len(found)),
    }


@jax.jit
def _overlap(
    target: LanguageModel,
    draft: LanguageModel,
    tokens: Int[Array, "1 L"],
    places: Int[Array, "1 N"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "N"]:
    """``sum min(p, q)`` behind the tokens at ``places``."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    p, q = (
        jax.nn.softmax(model(tokens, positions, SequenceCache.create(1), logits_at=places).logits[0] / temperature)
        for model in (target, draft)
    )
    return jnp.minimum(p, q).sum(-1)


def temperature_results(
    arms: Sequence[Arm],
    models: Mapping[str, LanguageModel],
    prompt: Prompt,
    batch: int,
    temperatures: Sequence[float],
    progress: Progress,
) -> dict[str, dict[str, list[float]]]:
    """Tokens per call of deterministic guesses, by arm, temperature (as text) and prompt."""
    return {
        arm.name: {
            f"{temperature:g}": [
                counts_of([text]).tokens_per_call
                for text in decode_counted(
                    arm,
                    Sampling(temperature),
                    models[arm.draft],
                    prompt,
                    batch,
                    f"temperature {temperature:g}",
                    progress,
                )
            ]
            for temperature in temperatures
        }
        for arm in arms
    }
