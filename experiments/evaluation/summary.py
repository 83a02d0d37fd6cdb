"""From the samples of all prompts to one row per family and arm."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.evaluation.decoding import counts_of
from jaxdec.evaluation.acceptance import pooled
from jaxdec.evaluation.bootstrap import mean_interval

ALL = "all"
Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""By arm, then by prompt: what was measured, round by round."""


def decode_rate(measured: Mapping[str, Any]) -> float | None:
    """Tokens per second of the tokens behind the first; None for a text of one token."""
    return (measured["new_tokens"] - 1) / measured["decode_seconds"] if measured["new_tokens"] > 1 else None


def total_rate(measured: Mapping[str, Any]) -> float:
    """Tokens per second, the prefill included: what Spec-Bench divides by."""
    return measured["new_tokens"] / (measured["prefill_seconds"] + measured["decode_seconds"])


def row(
    family: str, arm: str, baseline: str, names: Sequence[str], samples: Samples, *, timed: bool, seed: int
) -> dict[str, Any]:
    """What an arm did on the prompts of a family.

    Args:
      family: its name, or :data:`ALL`.
      arm: the arm.
      baseline: the arm that its speed is compared with.
      names: ids of the prompts.
      samples: of all arms.
      timed: whether speed-ups make sense.
      seed: of the bootstrap.

    Returns:
      Counters of all prompts together, ``tokens_per_call`` (pooled: all tokens over all calls), ``acceptance`` by depth,
      ``wasted_share``; where timed also median rates and times, and the speed-ups over the baseline: ``speedup`` of decoding
      and ``speedup_total`` with the prefill, each the mean over the prompts of the ratio of tokens per second (the median over
      rounds of ratios inside a round), with the bootstrap interval over prompts; and ``speedup_spec_bench``, the ratio of mean
      tokens per second with the prefill, as Spec-Bench's ``speed.py`` has it.
    """
    own = samples[arm]
    counts = pooled(counts_of(own[name][0]) for name in names)
    result: dict[str, Any] = {
        "family": family,
        "arm": arm,
        "baseline": baseline,
        "prompts": len(names),
        "new_tokens": counts.new_tokens,
        "target_calls": counts.target_calls,
        "tokens_per_call": counts.tokens_per_call,
        "drafted": list(counts.drafted),
        "accepted": list(counts.accepted),
        "acceptance": counts.acceptance,
        "fed": counts.fed,
        "wasted_share": counts.wasted_share,
    }
    if not timed:
        return result
    base = samples[baseline]
    rates = [_median([decode_rate(entry) for entry in own[name]]) for name in names]
    known = [rate for rate in rates if rate is not None]
    per_prompt = [_ratio(own[name], base[name], decode_rate) for name in names]
    speedups = [ratio for ratio in per_prompt if ratio is not None]
    totals = [_ratio(own[name], base[name], total_rate) for name in names]
    mine, theirs = (sum(_middle(side[name], total_rate) for name in names) / len(names) for side in (own, base))
    return result | {
        "tokens_per_second": statistics.fmean(known) if known else None,
        "prefill_ms": statistics.fmean(_middle(own[name], lambda entry: entry["prefill_seconds"]) for name in names)
        * 1e3,
        "speedup": mean_interval(speedups, seed=seed)._asdict() if speedups else None,
        "speedup_total": mean_interval([ratio for ratio in totals if ratio is not None], seed=seed)._asdict(),
        "speedup_spec_bench": mine / theirs,
    }


def peer_row(family: str, names: Sequence[str], samples: Samples, peer: str) -> dict[str, Any]:
    """Another engine on the prompts of a family: mean over prompts of its median rates."""
    rates = [statistics.median(entry["tokens_per_second"] for entry in samples[peer][name]) for name in names]
    return {"family": family, "arm": peer, "prompts": len(names), "tokens_per_second": statistics.fmean(rates)}


def over_peer(names: Sequence[str], samples: Samples, arm: str, peer: str, seed: int) -> dict[str, float] | None:
    """Tokens per second of an arm over those of another engine, as speed-ups are taken."""
    ratios = [
        statistics.median(rate / theirs["tokens_per_second"] for rate, theirs in pairs)
        for name in names
        if (pairs := [(r, t) for o, t in zip(samples[arm][name], samples[peer][name]) if (r := decode_rate(o))])
    ]
    return mean_interval(ratios, seed=seed)._asdict() if ratios else None


def _ratio(own: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], rate: Any) -> float | None:
    pairs = [(rate(mine), rate(theirs)) for mine, theirs in zip(own, base)]
    return _median([mine / theirs if mine and theirs else None for mine, theirs in pairs])


def _middle(entries: Sequence[Mapping[str, Any]], value: Any) -> float:
    return statistics.median(value(entry) for entry in entries)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
