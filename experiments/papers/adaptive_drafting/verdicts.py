"""The paper's claims, and the questions its code leaves open, each with its measurement.

The rules were fixed before anything was measured in full. A comparison of arms is a mean of differences in tokens per call,
prompt by prompt, with its bootstrap interval (95 %): it holds above zero, fails below, and is open where the interval contains
zero.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmarks.harness import LOUD
from experiments.papers.adaptive_drafting.arms import DEPTH, NODES, best_first_name, chain_name, puct_name
from experiments.papers.adaptive_drafting.carrying import slope_interval
from experiments.papers.adaptive_drafting.greedy_texts import DOMAINS, FAMILIES
from experiments.papers.adaptive_drafting.results import Results, two_sample_interval
from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from jaxdec.evaluation import Interval

FLOOR = 1.3
"""Tokens per call that a table has to reach to be of use."""
NEAR = 0.1
"""Share within which a cold start counts as near prompt lookup."""
NO_WORSE = 0.02
"""Tokens per call by which one search may fall behind another and still match it."""
HIGHER = 1.2
"""What "about 20% higher acceptance" has to reach."""
SPEEDUPS = (1.78, 2.47)
"""Smallest and largest in the authors' figures."""
UNEVEN = 0.7
"""Ratio of the time of a pass to that of a shorter one below which the machine was not quiet. (Some sizes do take longer than
the next, whole tile.)"""
PAPER_SPEEDUPS = "1.78x to 2.47x over plain decoding (Vicuna 7B to 33B, Llama-2 7B and 13B; three benchmarks)"
UNDECIDED = "an interval contains zero"


def all_claims(results: Results, nodes: Sequence[int], constants: Sequence[float]) -> list[dict[str, Any]]:
    """Judge every claim."""
    small = min(nodes)
    return [
        same_text(results),
        adaptive_above_static(results, "own"),
        adaptive_above_static(results, "foreign"),
        above_floor(results, "static own"),
        above_floor(results, "adaptive own"),
        *(gap_widens(results, domain) for domain in results.groups_of(DOMAINS)),
        code_above_chat(results),
        tree_above_chain(results, [count for count in nodes if count <= NODES]),
        own_above_foreign(results),
        *(cold_start(results, domain) for domain in results.groups_of(DOMAINS)),
        exact_search(results, nodes, max(constants)),
        reward(results, nodes, constants),
        constant(results, nodes, constants),
        higher_acceptance(results),
        *([prompt_learnt(results)] if "prompt learnt" in results.counts else []),
        predicted(results, ["adaptive own", best_first_name(small)]),
        measured(results),
    ]


def each_gain(
    results: Results, pairs: Sequence[tuple[str, str, str]], which: str | None = None
) -> tuple[str, list[Interval]]:
    """``label: 1.50 against 1.40, +0.10 [...]`` for ``(label, ours, theirs)``, over the prompts that all of them have."""
    keys = results.keys(which, arms=[arm for _, *arms in pairs for arm in arms])
    gains = [results.gain(ours, theirs, keys) for _, ours, theirs in pairs]
    text = "; ".join(
        f"{label}: {results.rate(ours, keys):.2f} against {results.rate(theirs, keys):.2f}, {told(gain, 2)}"
        for (label, ours, theirs), gain in zip(pairs, gains)
    )
    return text, gains


def by_family(results: Results, tell: Callable[[list[Any]], str]) -> str:
    """``chat ...; code ...``."""
    families = results.groups_of(FAMILIES)
    return "; ".join(f"{family} {tell(results.keys(FAMILIES, family))}" for family in families)


def same_text(results: Results) -> dict[str, Any]:
    """Real decodes against greedy decoding, and against the replay."""
    entries = [*results.decoded, *(entry for entry in results.clock if entry["arm"] != "greedy")]
    wrong = [entry["difference"] for entry in entries if entry["difference"] is not None]
    ties = [entry for entry in wrong if entry["gap"] is not None and abs(entry["gap"]) < 1e-3]
    gaps = f" (largest gap of logits {max(abs(entry['gap']) for entry in ties):.1e})" if ties else ""
    same = [entry for entry in results.decoded if entry["difference"] is None]
    replays = [results.counts["adaptive own"][entry["set"], entry["id"]] for entry in same]
    agree = sum(entry["target_calls"] == replay.target_calls for entry, replay in zip(same, replays))
    return claim(
        "greedy text is that of plain decoding, whatever the table",
        "lossless for greedy decoding",
        f"{len(entries) - len(wrong)} of {len(entries)} texts of the target equal, {len(ties)} differ at a tie{gaps}; "
        f"calls equal those of the replay for {agree} of {len(same)}",
        [len(wrong) == len(ties) and agree == len(same)],
        {False: "a text differs where there is no tie, or a replay and a decode do not agree"},
    )


def adaptive_above_static(results: Results, corpus: str) -> dict[str, Any]:
    """Family by family."""
    ours, theirs = f"adaptive {corpus}", f"static {corpus}"
    families = results.groups_of(FAMILIES)
    gains = {family: results.gain(ours, theirs, results.keys(FAMILIES, family)) for family in families}
    open_ = [family for family, gain in gains.items() if sign_verdict(gain) is None]
    below = [family for family, gain in gains.items() if sign_verdict(gain) is False]
    return claim(
        f"the adaptive table drafts better than the static one in every family ({corpus} corpus)",
        "updates adapt the draft to the text and the model; ablation in the paper",
        by_family(results, lambda keys: told(results.gain(ours, theirs, keys), 2)) + " tokens per call",
        [sign_verdict(gain) for gain in gains.values()],
        {None: f"{UNDECIDED}: {', '.join(open_)}", False: f"worse in {', '.join(below)}"},
    )


def above_floor(results: Results, arm: str) -> dict[str, Any]:
    """Tokens per call in every family."""
    families = results.groups_of(FAMILIES)
    low = [f for f in families if results.rate(arm, results.keys(FAMILIES, f)) <= FLOOR]
    why = f"not in {', '.join(low)}: the table holds what the target said to {len(results.groups) - 1} other prompts"
    if "prompt learnt" in results.counts:
        copies = ", ".join(f"{f} {results.rate('prompt learnt', results.keys(FAMILIES, f)):.2f}" for f in low)
        why += f", and knows little of this prompt; adaptive with the prompt learnt: {copies}"
    return claim(
        f"{arm}: above {FLOOR} tokens per call in every family",
        "drafts of a small corpus already pay (253 MB of text: 1.9x)",
        by_family(results, lambda keys: f"{results.rate(arm, keys):.2f}"),
        [not low],
        {False: why},
    )


def gap_widens(results: Results, domain: str) -> dict[str, Any]:
    """Slope of carried adaptive less static."""
    slope = slope_interval(results.points("foreign", domain, "static foreign"))
    line = results.by_index("foreign", domain, "static foreign")
    third = max(1, len(line) // 3)
    first, last = sum(line[:third]) / third, sum(line[-third:]) / third
    return claim(
        f"{domain}: adaptive gains more over static the more prompts of the domain it has seen (foreign corpus)",
        "the table keeps adapting while it is used",
        f"gain {first:+.2f} tokens per call in the first third of the prompts, {last:+.2f} in the last; slope "
        f"{told(slope, 4)} per prompt",
        [sign_verdict(slope)],
        {None: UNDECIDED, False: "the gain falls"},
    )


def code_above_chat(results: Results) -> dict[str, Any]:
    """Two samples of prompts: the interval is of the difference of means."""
    tolds, verdicts = [], []
    for which in (FAMILIES, DOMAINS):
        for arm in ("adaptive own", "adaptive foreign"):
            code, chat = (results.keys(which, group) for group in ("code", "chat"))
            if not (code and chat):
                continue
            a, b = results.rates(arm, code), results.rates(arm, chat)
            gain = two_sample_interval(a, b)
            tolds.append(f"{which}, {arm}: {results.rate(arm, code):.2f} against {results.rate(arm, chat):.2f}, "
                         f"{told(gain, 2)}")  # fmt: skip
            verdicts.append(sign_verdict(gain))
    return claim(
        "code is drafted better than chat",
        "HumanEval 2.07x to 2.47x, MT-Bench 1.78x to 2.12x",
        "; ".join(tolds),
        verdicts,
        {None: UNDECIDED, False: "chat is drafted better in at least one of the comparisons"},
    )


def tree_above_chain(results: Results, nodes: Sequence[int]) -> dict[str, Any]:
    """At equal nodes, and at equal depth."""
    pairs = [(f"{count} nodes each", best_first_name(count), chain_name(count)) for count in nodes]
    pairs.append(
        (f"{NODES} nodes against the chain of the same depth {DEPTH}", best_first_name(NODES), chain_name(DEPTH))
    )
    text, gains = each_gain(results, pairs)
    return claim(
        "a tree of drafts is better than the chain of heaviest successors (own corpus)",
        "tree search against greedy search in the paper's ablation",
        text,
        [sign_verdict(gain) for gain in gains],
        {None: UNDECIDED, False: "the chain is longer than the tree is deep, and wins at equal nodes"},
    )


def own_above_foreign(results: Results) -> dict[str, Any]:
    """Corpus; where prompts have near duplicates, and where they have not."""
    texts, verdicts = [], []
    for which in (FAMILIES, DOMAINS):
        pairs = [(f"{which}, {kind}", f"{kind} own", f"{kind} foreign") for kind in ("static", "adaptive")]
        text, gains = each_gain(results, pairs, which)
        texts.append(text)
        verdicts += [sign_verdict(gain) for gain in gains]
    code = results.keys(FAMILIES, "code")
    own, foreign = results.rate("static own", code), results.rate("static foreign", code)
    return claim(
        "a table of the model's own texts is better than one of foreign text",
        "the table approximates the model's law; corpora of chat or code by task",
        "; ".join(texts),
        verdicts,
        {
            None: f"{UNDECIDED}: for the family code, {foreign:.2f} with foreign sources against {own:.2f} (static)",
            False: "the foreign corpus is better in at least one of the comparisons",
        },
    )


def cold_start(results: Results, domain: str) -> dict[str, Any]:
    """Without a corpus: where it begins, and whether it climbs."""
    keys = results.keys(DOMAINS, domain)
    begins, copies = results.rate("adaptive cold", keys), results.rate("prompt lookup", keys)
    slope = slope_interval(results.points("cold", domain, "prompt lookup"))
    line = results.by_index("cold", domain, None)
    third = max(1, len(line) // 3)
    near = abs(begins / copies - 1) <= NEAR
    return claim(
        f"{domain}: without a corpus drafting begins near prompt lookup (within {NEAR:.0%}) and climbs from prompt to prompt",
        "not in the paper: what adaptation alone is worth",
        f"begins at {begins:.2f}, prompt lookup {copies:.2f}; last third of the prompts {sum(line[-third:]) / third:.2f}; "
        f"slope {told(slope, 4)} per prompt",
        [near, sign_verdict(slope)],
        {
            None: f"slope: {UNDECIDED}",
            False: "it does not climb" if near else f"it begins {begins / copies - 1:+.0%} away from prompt lookup",
        },
    )


def exact_search(results: Results, nodes: Sequence[int], c1: float) -> dict[str, Any]:
    """Best-first against the paper's search."""
    pairs = [(f"{n} nodes", best_first_name(n), puct_name(n, "intended", c1)) for n in nodes]
    text, gains = each_gain(results, pairs)
    verdicts = [True if gain.low >= -NO_WORSE else False if gain.high < -NO_WORSE else None for gain in gains]
    return claim(
        f"exact best-first search matches or beats the tree search at equal nodes (PUCT, c1 = {c1:g}, intended reward)",
        "not in the paper, which compares its tree search with greedy search and full traversal",
        text,
        verdicts,
        {None: f"an interval reaches below -{NO_WORSE}", False: "the tree search is better"},
    )


def reward(results: Results, nodes: Sequence[int], constants: Sequence[float]) -> dict[str, Any]:
    """Intended against published."""
    pairs = [
        (f"{n} nodes, c1={c1:g}", puct_name(n, "intended", c1), puct_name(n, "published", c1))
        for n in nodes
        for c1 in constants
    ]
    text, gains = each_gain(results, pairs)
    return claim(
        "the reward as it was meant finds better drafts than the one the published code computes",
        "the published code looks a wrong token up, and its reward is almost always 1",
        text,
        [sign_verdict(gain) for gain in gains],
        {
            None: f"{UNDECIDED}: visits follow the weights of the edges, the reward hardly matters",
            False: "the published reward does better in at least one of the comparisons",
        },
    )


def constant(results: Results, nodes: Sequence[int], constants: Sequence[float]) -> dict[str, Any]:
    """The largest c1 against the smallest."""
    high, low = max(constants), min(constants)
    pairs = [
        (f"{n} nodes, {name} reward", puct_name(n, name, high), puct_name(n, name, low))
        for n in nodes
        for name in ("intended", "published")
    ]
    text, gains = each_gain(results, pairs)
    return claim(
        f"c1 = {high:g}, to which the authors' code was changed late, finds better drafts than {low:g}",
        "none: the code changed, the paper calls its constants a balance of exploration and exploitation",
        text,
        [sign_verdict(gain) for gain in gains],
        {None: UNDECIDED, False: f"c1 = {low:g} does better in at least one of the comparisons"},
    )


def higher_acceptance(results: Results) -> dict[str, Any]:
    """Guesses accepted per step."""
    keys, tolds, verdicts = results.keys(FAMILIES), [], []
    for corpus in ("own", "foreign"):
        ours, theirs = (results.accepted_per_step(f"{kind} {corpus}", keys) for kind in ("adaptive", "static"))
        change = f", {ours / theirs - 1:+.0%}" if theirs else ""
        tolds.append(f"{corpus} corpus: {theirs:.2f} to {ours:.2f} guesses a step{change}")
        verdicts.append(ours >= HIGHER * theirs)
    copies = results.accepted_per_step("prompt lookup", keys)
    return claim(
        f"adaptation raises acceptance by about 20% (at least {HIGHER - 1:.0%} over the static table, six families together)",
        "about 20% higher acceptance on average; over what, our source does not say",
        f"{'; '.join(tolds)}; prompt lookup {copies:.2f}",
        verdicts,
        {False: "less than that in at least one of the comparisons"},
    )


def prompt_learnt(results: Results) -> dict[str, Any]:
    """The adaptive table begins with the prompt's tri-grams."""
    pairs = [
        ("own corpus", "prompt learnt", "adaptive own"),
        ("foreign corpus", "foreign, prompt learnt", "adaptive foreign"),
        ("no corpus", "cold, prompt learnt", "adaptive cold"),
        ("own corpus, step 1 for 0.04", "prompt learnt, step 1", "prompt learnt"),
        ("own corpus, step 1, depth 8 for 4", "prompt learnt, step 1, depth 8", "prompt learnt, step 1"),
    ]
    text, gains = each_gain(results, pairs)
    return claim(
        "learning the prompt before the first step drafts better, and so do larger steps and deeper trees on top of it",
        "not in the paper: its table learns from the last 16 tokens at every step, of a prompt the last 16 only",
        text,
        [sign_verdict(gain) for gain in gains],
        {None: UNDECIDED, False: "one of these does harm"},
    )


def predicted(results: Results, arms: Sequence[str]) -> dict[str, Any]:
    """With the measured cost of a pass and of drafting."""
    tolds, best = [], {}
    for arm in dict.fromkeys(arms):
        values = {
            family: results.speedup(arm, results.keys(FAMILIES, family, [arm]))
            for family in results.groups_of(FAMILIES)
        }
        known = {family: value for family, value in values.items() if value is not None}
        tolds.append(f"{results.nodes[arm]} nodes: {', '.join(f'{f} {v:.2f}' for f, v in known.items()) or 'unknown'}")
        for family, value in known.items():
            best[family] = max(value, best.get(family, 0.0))
    costs = ", ".join(f"{n}: {ms / results.step_ms[1]:.2f}" for n, ms in results.step_ms.items())
    slow = [family for family, value in best.items() if value < SPEEDUPS[0]]
    curve = [ms for _, ms in sorted(results.step_ms.items())]
    noisy = any(later < UNEVEN * earlier for earlier, later in itertools.pairwise(curve))
    return claim(
        f"the speed-up that tokens per call, cost of a pass and drafting promise here is in the paper's range (at least "
        f"{SPEEDUPS[0]}x in every family)",
        PAPER_SPEEDUPS,
        f"{'; '.join(tolds)}. T(n) / T(1): {costs}",
        [None if noisy else bool(best) and not slow],
        {
            None: "a pass over more tokens seemed to take less time than one over fewer: the machine was not quiet",
            False: f"not in {', '.join(slow) or 'any'}: verifying is not free on a processor, and the table is small",
        },
    )


def measured(results: Results) -> dict[str, Any]:
    """Clock at batch 1."""
    arms = [arm for arm in dict.fromkeys(entry["arm"] for entry in results.clock) if arm != "greedy"]
    ratios = {arm: results.clock_ratios(arm) for arm in arms}
    ours = [arm for arm in arms if arm.startswith("aded")]
    loads = [entry["foreign_load"] for entry in results.clock if entry["foreign_load"] is not None]
    average = sum(loads) / len(loads) if loads else 0.0
    load = f"foreign load {average:.2f} cores on average" if loads else "foreign load unknown"
    text = "; ".join(f"{arm} {found['all']:.2f}x" for arm, found in ratios.items())
    best = max((ratios[arm]["all"] for arm in ours), default=0.0)
    return claim(
        f"measured at batch 1, text by text against greedy decoding in turns, at least {SPEEDUPS[0]}x",
        PAPER_SPEEDUPS,
        f"{text} (medians; {load})",
        [None if average > LOUD else best >= SPEEDUPS[0]],
        {
            None: "others kept the machine busy: take the times again",
            False: f"{best:.2f}x at best: see the costs of a pass",
        },
    )
