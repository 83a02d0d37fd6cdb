"""The tables of the report."""

from typing import Any

import numpy as np

from experiments.papers.speculative.arms import PLAIN, counts_of
from experiments.papers.speculative.results import Results


def tables(results: Results) -> list[dict[str, Any]]:
    """All tables."""
    return [
        costs(results),
        formula(results),
        chains(results),
        overlaps(results),
        by_family(results),
        waste(results),
        temperatures(results),
        equality(results),
        speeds(results),
        laws(results),
    ]


def table(title: str, header: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """One table."""
    return {"title": title, "header": header, "rows": rows}


def costs(results: Results) -> dict[str, Any]:
    """The curves T(n) / T(1)."""
    curves = {name or "target": row for name, row in results.curve["costs"].items()}
    counts = sorted({int(count) for row in curves.values() for count in row})
    rows = [[name, *(row.get(str(count)) for count in counts)] for name, row in curves.items()]
    return table("Cost of a pass over n tokens, in plain steps of the target", ["model", *map(str, counts)], rows)


def formula(results: Results) -> dict[str, Any]:
    """Constant acceptance."""
    names = ["a", "g", "acceptance", "measured", "formula"]
    return table(
        "Constant acceptance: tokens per step", names, [[row[name] for name in names] for row in results.formula]
    )


def chains(results: Results) -> dict[str, Any]:
    """Chain drafts."""
    names = ["g", "a", "measured", "formula", "tokens_per_call"]
    rows = [[draft, *(row[name] for name in names)] for draft, lines in results.chains.items() for row in lines]
    return table("Greedy chains: tokens per step", ["draft", "g", "a", "measured", "formula", "tokens per call"], rows)


def overlaps(results: Results) -> dict[str, Any]:
    """Sampled chains."""
    names = ["steps", "accepted", "overlap", "deviation", "tokens_per_step"]
    rows = [
        [draft, temperature, *(row[name] for name in names)]
        for draft, lines in results.overlaps.items()
        for temperature, row in lines.items()
    ]
    header = ["draft", "temperature", "steps", "first guess accepted", "sum min(p, q)", "sd", "tokens per step"]
    return table("Sampled chains", header, rows)


def by_family(results: Results) -> dict[str, Any]:
    """Tokens per call."""
    families = list(dict.fromkeys(results.families))
    rows = [
        [arm, *(results.mean_tokens_per_call(arm, [family]) for family in families), results.mean_tokens_per_call(arm)]
        for arm in results.texts
    ]
    return table("Tokens per call, greedy, by family", ["method", *families, "all"], rows)


def waste(results: Results) -> dict[str, Any]:
    """Nodes."""
    rows = []
    for arm, texts in results.texts.items():
        if arm != PLAIN:
            counts = counts_of(texts)
            chances = [None if chance is None else round(chance, 3) for chance in counts.acceptance[:4]]
            rows.append([arm, counts.new_tokens, counts.target_calls, counts.fed, counts.wasted_share,
                         *(chances + [None] * 4)[:4]])  # fmt: skip
    header = ["method", "tokens", "calls", "nodes fed", "wasted", *(f"accepted at depth {d}" for d in (1, 2, 3, 4))]
    return table("Where nodes went", header, rows)


def temperatures(results: Results) -> dict[str, Any]:
    """Tokens per call."""
    levels = sorted({level for row in results.temperatures.values() for level in row}, key=float)
    rows = [[arm, *(float(np.mean(row[level])) for level in levels)] for arm, row in results.temperatures.items()]
    return table("Deterministic guesses: tokens per call", ["method", *(f"T={level}" for level in levels)], rows)


def equality(results: Results) -> dict[str, Any]:
    """Texts that part from plain decoding's."""
    rows = [
        [arm, len(results.texts[arm]), len(found), max((f"{one['gap']:.1e}" for one in found), key=float, default=None)]
        for arm, found in results.differences.items()
    ]
    return table("Greedy texts beside plain decoding's", ["method", "texts", "different", "largest gap"], rows)


def speeds(results: Results) -> dict[str, Any]:
    """Measured and predicted."""
    families = list(dict.fromkeys(results.families[place] for place in results.timed_places))
    fixed = {arm.name for arm in results.fixed_arms()}
    rows = []
    for arm in results.timed_arms:
        own = arm.name in fixed
        rows.append(
            [
                arm.name,
                *(results.speed_up(arm.name, [family]) for family in families),
                results.speed_up(arm.name),
                results.predicted(arm) if own else None,
                results.step_cost(arm) if own else None,
                results.drafting_cost(arm) if own else None,
                float(np.mean(results.timing["speeds"][arm.name])),
            ]
        )
    header = ["method", *families, "all", "predicted", "v", "c", "tokens per second"]
    load = results.timing["foreign_load"]
    told = "" if load is None else f"; load by others {load:.2f} cores"
    return table(f"Speed-up on this processor, batch 1, one prompt a family, prefill left out{told}", header, rows)


def laws(results: Results) -> dict[str, Any]:
    """Total variations."""
    rows = [[name, row["first"], row["second"]] for name, row in results.laws["methods"].items()]
    control = results.laws["control"]
    rows += [["control: drawn again after a mismatch", control["right"], None]]
    rows += [["control, from the biased law", control["biased"], None]]
    header = ["method", "tokens 1 and 2", "tokens 2 and 3"]
    return table(f"Total variation from the exact law, {results.laws['draws']} draws", header, rows)
