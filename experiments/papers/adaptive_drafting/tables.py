"""The tables of the report: every arm."""

from collections.abc import Sequence
from typing import Any

from experiments.papers.adaptive_drafting.greedy_texts import DOMAINS, FAMILIES
from experiments.papers.adaptive_drafting.results import Results

DEPTHS = 4


def tables(results: Results) -> list[dict[str, Any]]:
    """All tables."""
    every = list(results.counts)
    most = [arm for arm in every if len(results.counts[arm]) == len(results.groups)]
    found = [rates(results, "Tokens per call, all prompts", most)]
    if len(most) < len(every):
        count = len(results.keys(arms=every))
        found.append(rates(results, f"Tokens per call, the {count} prompts that all arms were run on", every))
    return [*found, acceptance(results, every), costs(results), carried(results), clock(results)]


def rates(results: Results, title: str, arms: Sequence[str]) -> dict[str, Any]:
    """Tokens per call by group, over the prompts that all of ``arms`` have."""
    columns = [(which, group) for which in (FAMILIES, DOMAINS) for group in results.groups_of(which)]
    rows = [
        [
            arm,
            *(results.rate(arm, results.keys(*column, arms)) for column in columns),
            results.rate(arm, results.keys(arms=arms)),
        ]
        for arm in arms
    ]
    names = [f"{'domain ' if which == DOMAINS else ''}{group}" for which, group in columns]
    return {"title": title, "header": ["arm", *names, "all"], "rows": rows}


def acceptance(results: Results, arms: Sequence[str]) -> dict[str, Any]:
    """Of the steps that fed a guess of each depth, those that accepted one; over the prompts that all of ``arms`` have."""
    rows, keys = [], results.keys(arms=arms)
    for arm in arms:
        total = results.pooled(arm, keys)
        shares: list[float | None] = [*total.acceptance, *[None] * DEPTHS]
        wasted = total.fed and (total.fed - sum(total.accepted)) / total.fed
        rows.append([arm, *shares[:DEPTHS], results.accepted_per_step(arm, keys), wasted])
    header = ["arm", *(f"depth {d}" for d in range(1, DEPTHS + 1)), "accepted per step", "share of nodes wasted"]
    title = f"Acceptance by depth, {len(keys)} prompts"
    return {"title": title, "header": header, "rows": rows}


def costs(results: Results) -> dict[str, Any]:
    """What a step costs, and the speed-up that follows, over the six families."""
    keys, one = results.keys(FAMILIES, arms=list(results.drafting_ms)), results.step_ms[1]
    rows = []
    for arm, draft in results.drafting_ms.items():
        passes = results.step_ms.get(results.nodes[arm] + 1)
        rows.append(
            [
                arm,
                results.nodes[arm],
                draft,
                draft / one,
                None if passes is None else passes / one,
                results.rate(arm, keys),
                results.speedup(arm, keys),
                results.speedup(arm, keys, drafting=False),
            ]
        )
    header = ["arm", "nodes", "drafting, ms", "drafting / T(1)", "T(nodes + 1) / T(1)", "tokens per call",
              "predicted speed-up", "if drafting were free"]  # fmt: skip
    title = (
        f"Cost of a step at batch 1 (T(1) = {one:.1f} ms) and predicted speed-up, {len(keys)} prompts of the families"
    )
    return {"title": title, "header": header, "rows": rows}


def thirds(line: Sequence[float]) -> list[float]:
    """Means over the first, second and last third."""
    size = max(1, len(line) // 3)
    parts = [line[:size], line[size:-size] or line, line[-size:]]
    return [sum(part) / len(part) for part in parts]


def carried(results: Results) -> dict[str, Any]:
    """Tables carried from prompt to prompt."""
    rows = []
    for domain in results.groups_of(DOMAINS):
        keys = results.keys(DOMAINS, domain)
        for name, afresh in (("foreign", "adaptive foreign"), ("cold", "adaptive cold")):
            line = results.by_index(name, domain, None)
            rows.append([f"{domain}, {name}", results.rate(afresh, keys), *thirds(line)])
    header = ["domain, table", "learnt afresh for each prompt", "carried: first third", "second third", "last third"]
    return {"title": "Tokens per call with the table carried from prompt to prompt", "header": header, "rows": rows}


def clock(results: Results) -> dict[str, Any]:
    """Measured ratios."""
    arms = list(dict.fromkeys(entry["arm"] for entry in results.clock if entry["arm"] != "greedy"))
    ratios = {arm: results.clock_ratios(arm) for arm in arms}
    groups = list(dict.fromkeys(group for found in ratios.values() for group in sorted(found)))
    rows = [[group, *(ratios[arm].get(group) for arm in arms)] for group in groups]
    return {"title": "Times as fast as greedy decoding at batch 1, medians", "header": ["prompts", *arms], "rows": rows}
