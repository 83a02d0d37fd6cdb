"""What a low-precision model says, held against the same weights in float32: perplexity, divergence, greedy texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.evaluation.equality import first_difference
from jaxdec.evaluation.bootstrap import mean_interval
from jaxdec.evaluation.perplexity import (
    kl_divergence,
    next_token_log_probs,
    perplexity,
    perplexity_change,
    surprisal,
)
from jaxdec.language_model import LanguageModel

REFERENCE = "float32"
ALL = "all"


def score_window(models: Mapping[str, LanguageModel], tokens: np.ndarray) -> dict[str, dict[str, float]]:
    """One window under every model.

    Args:
      models: by dtype, :data:`REFERENCE` among them.
      tokens: ``int32[width]``.

    Returns:
      By dtype: ``surprisal``, the mean over the ``width - 1`` tokens scored, in nats; ``kl`` and ``kl_max``, mean and largest
      divergence from the reference's law at a token, in nats; ``same_argmax``, tokens at which the likeliest guess is the
      reference's.
    """
    row = jnp.asarray(tokens, jnp.int32)[None]
    reference = next_token_log_probs(models[REFERENCE], row)
    scores = {}
    for dtype, model in models.items():
        laws = reference if dtype == REFERENCE else next_token_log_probs(model, row)
        divergence = np.asarray(kl_divergence(reference, laws), np.float64)
        scores[dtype] = {
            "surprisal": float(np.asarray(surprisal(laws, row[:, 1:]), np.float64).mean()),
            "kl": float(divergence.mean()),
            "kl_max": float(divergence.max()),
            "same_argmax": int((laws.argmax(-1) == reference.argmax(-1)).sum()),
        }
    return scores


def quality_rows(
    windows: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], scored: int, seed: int
) -> list[dict[str, Any]]:
    """One row per source and dtype, and over :data:`ALL` sources.

    Args:
      windows: what :func:`score_window` returned, by source.
      scored: tokens scored in each window.
      seed: of the bootstrap.

    Returns:
      Rows with ``perplexity``; its ``change`` against the reference with the paired bootstrap interval over windows; ``kl``,
      ``kl_max``; and ``same_argmax``, a share.
    """
    groups = {**windows, ALL: [window for source in windows.values() for window in source]}
    rows = []
    for source, members in groups.items():
        reference = [window[REFERENCE]["surprisal"] for window in members]
        for dtype in members[0]:
            own = [window[dtype] for window in members]
            surprisals = [window["surprisal"] for window in own]
            row = {
                "source": source,
                "dtype": dtype,
                "windows": len(own),
                "tokens_scored": scored * len(own),
                "perplexity": perplexity(surprisals),
                "change": perplexity_change(reference, surprisals, seed=seed)._asdict(),
                "kl": sum(window["kl"] for window in own) / len(own),
                "kl_max": max(window["kl_max"] for window in own),
                "same_argmax": sum(window["same_argmax"] for window in own) / (scored * len(own)),
            }
            rows.append(row)
    return rows


def agreement_rows(outputs: Mapping[str, Mapping[str, Sequence[int]]], seed: int) -> list[dict[str, Any]]:
    """How far greedy texts go together with the reference's.

    Args:
      outputs: token ids by dtype and prompt, end tokens included.
      seed: of the bootstrap.

    Returns:
      Per dtype: ``lengths``, by prompt the tokens before the first difference (all of the reference's text if there is none);
      their mean with its interval, ``agreement``; and ``equal``, of ``compared`` texts.
    """
    rows = []
    for dtype, texts in outputs.items():
        lengths, equal = {}, 0
        for name, tokens in texts.items():
            reference = outputs[REFERENCE][name]
            position = first_difference(reference, tokens)
            equal += position is None
            lengths[name] = len(reference) if position is None else position
        found = mean_interval([float(length) for length in lengths.values()], seed=seed)._asdict()
        rows.append({"dtype": dtype, "agreement": found, "equal": equal, "compared": len(texts), "lengths": lengths})
    return rows
