"""From single prompts to one line per rule of the suite ``long_context``."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdec.evaluation.bootstrap import mean_interval
from jaxdec.evaluation.perplexity import perplexity, perplexity_change

PASSAGE = "passage"


def right(log_probs: Sequence[float]) -> bool:
    """Whether the first way on is likelier than all others."""
    return log_probs[0] > max(log_probs[1:])


def summarise(
    measured: Sequence[Mapping[str, Any]], rules: Sequence[str], reference: str, seed: int
) -> list[dict[str, Any]]:
    """One row per rule.

    Args:
      measured: prompts, see :func:`experiments.evaluation.long_context.measured`.
      rules: their names.
      reference: the name of dense decoding.
      seed: of the bootstrap.

    Returns:
      Rows with ``accuracy`` (share of tasks' prompts whose right answer is the likeliest candidate, with its interval) and
      ``accuracy_by_task``; ``answer_surprisal``, of the right answer, in nats per token; ``perplexity`` of the passages and its
      ``perplexity_change``; ``prefill_sparsity``, ``decode_sparsity``, means over prompts; ``cache_bytes``, the largest;
      ``prefill_seconds``, ``step_seconds``, medians over prompts, and their ratios to the reference's, medians of ratios.
    """
    asked = [one for one in measured if one["task"] != PASSAGE]
    passages = [one for one in measured if one["task"] == PASSAGE]
    tasks = list(dict.fromkeys(one["task"] for one in asked))
    rows = []
    for rule in rules:

        def of(one: Mapping[str, Any], field: str, rule: str = rule) -> Any:
            return one["by_rule"][rule][field]

        def ratio(field: str, rule: str = rule) -> float:
            return statistics.median(one["by_rule"][rule][field] / one["by_rule"][reference][field] for one in measured)

        hits = {task: [right(of(one, "log_probs")) for one in asked if one["task"] == task] for task in tasks}
        everything = [float(hit) for task in tasks for hit in hits[task]]
        surprisals = [-of(one, "log_probs")[0] for one in passages]
        dense = [-one["by_rule"][reference]["log_probs"][0] for one in passages]
        rows.append(
            {
                "rule": rule,
                "accuracy": mean_interval(everything, seed=seed)._asdict(),
                "accuracy_by_task": {task: statistics.fmean(map(float, hits[task])) for task in tasks},
                "answer_surprisal": -statistics.fmean(of(one, "log_probs")[0] for one in asked),
                "perplexity": perplexity(surprisals),
                "perplexity_change": perplexity_change(dense, surprisals, seed=seed)._asdict(),
                "prefill_sparsity": statistics.fmean(of(one, "prefill_sparsity") for one in measured),
                "decode_sparsity": statistics.fmean(of(one, "decode_sparsity") for one in measured),
                "cache_bytes": max(of(one, "cache_bytes") for one in measured),
                "prefill_seconds": statistics.median(of(one, "prefill_seconds") for one in measured),
                "step_seconds": statistics.median(of(one, "step_seconds") for one in measured),
                "prefill_over_reference": ratio("prefill_seconds"),
                "step_over_reference": ratio("step_seconds"),
            }
        )
    return rows
