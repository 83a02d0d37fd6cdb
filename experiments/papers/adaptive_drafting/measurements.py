"""The parts of the replica: replays of every arm, tables carried through a domain, costs of a step, times on the clock."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from experiments.papers.adaptive_drafting.arms import (
    DEPTH,
    NODES,
    Arm,
    best_first_name,
    chain_name,
    published,
    puct_name,
)
from experiments.papers.adaptive_drafting.bench import Bench
from experiments.papers.adaptive_drafting.carrying import CARRIED_CAPACITY, carry, orders_of
from experiments.papers.adaptive_drafting.corpora import FOREIGN, NONE
from experiments.papers.adaptive_drafting.greedy_texts import DOMAINS, FAMILIES, Item
from experiments.papers.adaptive_drafting.real_decoding import GREEDY, drafting_milliseconds, step_costs, time_arms
from experiments.papers.adaptive_drafting.replay import counts_of, replay
from experiments.papers.parts import Parts
from experiments.papers.progress import Progress
from jaxdec.decoding.speculative import PromptLookup, Speculative, TreeSizes
from jaxdec.decoding.speculative.aded import TABLE
from jaxdec.typing import PyTree


def replay_all(arm: Arm, bench: Bench, progress: Progress) -> list[dict[str, Any]]:
    """Every prompt on its own, or for some arms a few of them."""
    found, items = [], bench.some("search_per_group") if arm.few else bench.items
    with progress.task(arm.name, len(items)) as advance:
        for item in items:
            state = replay(arm.method, item, bench.room, bench.vocab_size, bench.companions(arm, item))
            found.append(counts_of(item, state))
            advance("")
    return found


def carried_part(bench: Bench, parts: Parts, progress: Progress) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By arm and domain: every prompt at its place in every order."""
    drafter = published(NODES, DEPTH, capacity=CARRIED_CAPACITY)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def in_all_orders(arm: Arm, domain: str) -> list[dict[str, Any]]:
        items = bench.choose(DOMAINS, domain)
        orders = orders_of(len(items), bench.config["orders"], bench.config["seed"])
        entries: list[dict[str, Any]] = []
        with progress.task(f"domain {domain}, {arm.name}", len(orders) * len(items)) as advance:
            companions = functools.partial(bench.companions, arm)
            for number, order in enumerate(orders):
                ordered = [items[place] for place in order]
                one = carry(arm, ordered, bench.room, bench.vocab_size, companions, advance)
                entries += [{**entry, "order": number} for entry in one]
        return entries

    for arm in (Arm("foreign", drafter, FOREIGN), Arm("cold", drafter, NONE)):
        found[arm.name] = {}
        for domain in dict.fromkeys(item.group for item in bench.items if item.set == DOMAINS):
            compute = functools.partial(in_all_orders, arm, domain)
            found[arm.name][domain] = parts.get(f"carried_{arm.name}_{domain}", compute)
    return found


def cost_part(arms: Mapping[str, Arm], bench: Bench, progress: Progress) -> dict[str, Any]:
    """Milliseconds of passes and of proposals."""
    nodes, constants = bench.config["nodes"], bench.config["constants"]
    names = ["prompt lookup", *(best_first_name(count) for count in nodes)]
    names += [puct_name(count, "intended", max(constants)) for count in nodes]
    names += ["static own", "adaptive foreign", chain_name(DEPTH), "prompt learnt"]
    names = [name for name in names if name in arms]
    item, found = bench.items[0], {}
    with progress.task("costs of a step", len(names) + 1) as advance:
        sizes = {arms[name].drafter.num_nodes + 1 for name in names} | {n + 1 for n in bench.config["clock_nodes"]}
        step_ms = step_costs(bench.lm.model, sorted(sizes))
        advance("")
        for name in names:
            arm = arms[name]
            companions = bench.companions(arm, item)
            state = replay(arm.method, item, bench.room, bench.vocab_size, companions)
            model = bench.lm.model.accompanied(**companions)
            found[name] = drafting_milliseconds(arm.drafter, model, state, bench.config["timing_seconds"])
            advance("")
    return {"step_ms": step_ms, "drafting_ms": found}


def clock_part(step_ms: Mapping[int, float], bench: Bench, progress: Progress) -> list[dict[str, Any]]:
    """Greedy decoding, prompt lookup, and ADED with a fixed tree and with the size chosen at every step."""
    nodes = tuple(bench.config["clock_nodes"])
    sizes = TreeSizes(nodes, tuple(step_ms[n + 1] / step_ms[1] for n in nodes))
    most = nodes[-1]
    none: Callable[[Item], dict[str, PyTree]] = lambda item: {}  # noqa: E731
    own = lambda item: {TABLE: bench.own(item)}  # noqa: E731
    timed = {
        "greedy": (GREEDY, none),
        "prompt lookup, 7 nodes": (Speculative(PromptLookup(7)), none),
        "aded, 7 nodes": (Speculative(published(7, DEPTH)), own),
        f"aded, sizes {', '.join(map(str, nodes))}": (Speculative(published(most, DEPTH), sizes=sizes), own),
    }
    count = bench.config["clock_per_group"]
    items = [item for which in (FAMILIES, DOMAINS) for item in bench.choose(which, per_group=count)]
    return time_arms(timed, bench.lm, items, bench.room, bench.config["clock_rounds"], progress)
