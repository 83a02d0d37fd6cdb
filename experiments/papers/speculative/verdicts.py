"""The papers' claims, judged: what they say, what we measured, and whether that is the same.

The rules (tolerances, intervals, what counts as copying and as free text) were fixed before anything was measured in full.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from experiments.papers.speculative.arms import PLAIN
from experiments.papers.speculative.results import Results
from jaxdec.evaluation import mean_interval
from jaxdec.evaluation.acceptance import expected_tokens_per_call

CHECK_VALUES = {0.7: (1.70, 2.19, 2.77, 3.20), 0.8: (1.80, 2.44, 3.36, 4.33), 0.9: (1.90, 2.71, 4.10, 6.13)}
"""Of the formula, at g = 1, 2, 4, 8."""
CONSTANT = 0.03
"""Relative tolerance where acceptance is constant and independent: only chance is left."""
FORMULA = 0.10
"""Relative tolerance of the formula on text, where acceptance is neither."""
LAW = 0.02
"""Total variation up to which two laws of two tokens count as the same."""
TIE = 1e-4
"""Gap between the two best logits below which float32 texts may part."""
DEVIATIONS = 3.0
"""Standard deviations by which acceptance may miss ``sum min(p, q)``."""
NEAR_ONE = 1.25
"""Tokens per call up to which prompt lookup counts as near 1."""
FREE = 1.15
"""Cost of a pass up to which it counts as that of one token."""
PREDICTED = 0.20
"""Relative tolerance of a predicted speed."""
SPEED = 0.25
"""Relative tolerance of a published speed-up."""
COPYING, FREE_TEXT = ("summarise", "extract", "edit"), ("chat",)
LOOKUP, AHEAD, SMALL_AHEAD, RETRIEVAL = "prompt lookup", "lookahead", "lookahead, small", "retrieval"


def all_claims(results: Results, chain: str) -> list[dict[str, Any]]:
    """Judge every claim; ``chain`` is the arm of the draft model that stands for speculative sampling."""
    return [
        check_values(results),
        own_formula(results),
        predicted_formula(results),
        overlap(results),
        right_laws(results),
        wrong_law(results),
        same_text(results),
        colder(results),
        copying(results),
        best_copier(results),
        order_of_tokens(results, chain),
        free_passes(results),
        predicted_speeds(results),
        *published_speeds(results, chain),
        order_of_speeds(results, chain),
    ]


def check_values(results: Results) -> dict[str, Any]:
    """The formula where its assumption holds."""
    misses = [abs(row["measured"] / row["formula"] - 1) for row in results.formula]
    values = {(row["a"], row["g"]): row["measured"] for row in results.formula}
    shown = "; ".join(
        f"a={a:g}: " + ", ".join(f"{values[a, g]:.2f}" for g in (1, 2, 4, 8) if (a, g) in values)
        for a in sorted({row["a"] for row in results.formula})
    )
    rounded = all(
        abs(expected_tokens_per_call([a] * g) - value) < 0.006
        for a, line in CHECK_VALUES.items()
        for g, value in zip((1, 2, 4, 8), line)
    )
    return claim(
        f"Markov target with constant acceptance: tokens per step are (1 - a^(g+1)) / (1 - a), within {CONSTANT:.0%}",
        "at g = 1, 2, 4, 8: " + "; ".join(f"a={a:g}: {', '.join(map(str, line))}" for a, line in CHECK_VALUES.items()),
        f"{shown}; largest miss {max(misses):.1%}",
        [max(misses) <= CONSTANT and rounded],
        {False: "see the table of the formula"},
    )


def own_formula(results: Results) -> dict[str, Any]:
    """The formula on text, with the acceptance of the same run."""
    lines, verdicts = [], []
    for draft, rows in results.chains.items():
        misses = [row["measured"] / row["formula"] - 1 for row in rows]
        values = ", ".join(f"g={row['g']}: {row['measured']:.2f} ({row['formula']:.2f})" for row in rows)
        lines.append(f"{draft}: {values}")
        verdicts += [abs(miss) <= FORMULA for miss in misses]
    return claim(
        f"SmolLM2, chain drafts: tokens per step are the formula's with the measured a, within {FORMULA:.0%}",
        "E = (1 - a^(g+1)) / (1 - a)",
        "; ".join(lines),
        verdicts,
        {
            False: "acceptance is not independent: some places of a text are easy and others hard, so long chains do better"
        },
    )


def predicted_formula(results: Results) -> dict[str, Any]:
    """The formula on text, with the acceptance of single guesses."""
    lines, verdicts = [], []
    for draft, rows in results.chains.items():
        chance = rows[0]["a"]
        misses = {row["g"]: row["measured"] / expected_tokens_per_call([chance] * row["g"]) - 1 for row in rows[1:]}
        lines.append(f"{draft} (a={chance:.2f}): " + ", ".join(f"g={g}: {miss:+.0%}" for g, miss in misses.items()))
        verdicts += [abs(miss) <= FORMULA for miss in misses.values()]
    return claim(
        f"SmolLM2, chain drafts: a of single guesses (g=1) predicts longer chains within {FORMULA:.0%}",
        "guesses are taken as accepted independently, each with the mean chance",
        "; ".join(lines),
        verdicts,
        {False: "a guess behind an accepted one is not as likely to be accepted as a first guess"},
    )


def overlap(results: Results) -> dict[str, Any]:
    """Acceptance at a temperature."""
    lines, verdicts = [], []
    for draft, rows in results.overlaps.items():
        for temperature, row in rows.items():
            miss = (row["accepted"] - row["overlap"]) / max(row["deviation"], 1e-9)
            lines.append(f"{draft}, T={temperature}: {row['accepted']:.3f} ({row['overlap']:.3f}; {miss:+.1f} sd)")
            verdicts.append(abs(miss) <= DEVIATIONS)
    return claim(
        f"SmolLM2, sampled chains: the first guess is accepted with chance sum min(p, q), within {DEVIATIONS:g} sd",
        "corollary 3.6 of Leviathan et al.",
        "; ".join(lines),
        verdicts,
        {False: "more than chance"},
    )


def right_laws(results: Results) -> dict[str, Any]:
    """The methods that promise the target's law."""
    laws = results.laws["methods"]
    worst = {name: max(row["first"], row["second"]) for name, row in laws.items()}
    return claim(
        f"Markov target: the joint law of two tokens is the target's (total variation below {LAW:g})",
        "speculative sampling and trees of deterministic guesses keep the law exactly",
        f"{results.laws['draws']} draws: " + "; ".join(f"{name} {value:.4f}" for name, value in worst.items()),
        [value < LAW for value in worst.values()],
        {False: "see the table of laws"},
    )


def wrong_law(results: Results) -> dict[str, Any]:
    """The published shortcut, which does not."""
    row = results.laws["control"]
    return claim(
        "Markov target, negative control: drawing again after a mismatch gives p(x) + (1 - p(x)) p(x), not the target's law",
        "in the code of REST, Medusa (nucleus) and ADED; not in their papers",
        f"total variation from the target's law {row['right']:.3f}, from the biased one {row['biased']:.4f} (the two are "
        f"{row['between']:.3f} apart)",
        [row["right"] > 2 * LAW and row["biased"] < LAW],
        {False: "see the table of laws"},
    )


def same_text(results: Results) -> dict[str, Any]:
    """Every greedy text against plain decoding's."""
    total = sum(len(texts) for name, texts in results.texts.items() if name != PLAIN)
    found = [difference for found in results.differences.values() for difference in found]
    gaps = sorted(difference["gap"] for difference in found)
    largest = f", largest gap of the two best logits there {gaps[-1]:.1e}" if gaps else ""
    return claim(
        f"SmolLM2, greedy: texts are plain decoding's, near-ties (gap below {TIE:g}) excepted",
        "lossless; Spec-Bench compares texts line by line",
        f"{total - len(found)} of {total} texts equal{largest}",
        [all(gap < TIE for gap in gaps)],
        {False: "float32: a pass over many rows rounds otherwise than one over few, by more than the tolerance"},
    )


def colder(results: Results) -> dict[str, Any]:
    """Deterministic guesses at higher temperatures."""
    lines, verdicts = [], []
    for arm, rows in results.temperatures.items():
        levels = sorted(rows, key=float)
        fall = mean_interval(np.subtract(rows[levels[0]], rows[levels[-1]]))
        lines.append(
            f"{arm}: " + ", ".join(f"T={t}: {np.mean(rows[t]):.2f}" for t in levels) + f", fall {told(fall, 2)}"
        )
        verdicts.append(sign_verdict(fall))
    return claim(
        "SmolLM2, deterministic guesses: tokens per call fall with the temperature",
        "REST, CodeLlama-7B on HumanEval: 27.9 to 11.8 ms per token greedy, 28.0 to 13.2 with nucleus sampling",
        "; ".join(lines),
        verdicts,
        {None: "an interval contains zero", False: "they rise"},
    )


def copying(results: Results) -> dict[str, Any]:
    """Prompt lookup by family."""
    means = {family: results.mean_tokens_per_call(LOOKUP, [family]) for family in dict.fromkeys(results.families)}
    copied, free = (mean_interval(results.tokens_per_call(LOOKUP, which)) for which in (COPYING, FREE_TEXT))
    return claim(
        f"SmolLM2: prompt lookup pays where text is copied, and is near 1 (at most {NEAR_ONE:g} tokens per call) on free text",
        "Spec-Bench, Vicuna-7B: 2.66x summarisation, 1.86x RAG, 1.19x QA, 1.06x translation",
        "; ".join(f"{family} {value:.2f}" for family, value in means.items()),
        [copied.low > free.high and free.mean <= NEAR_ONE],
        {
            False: f"copying families {copied.mean:.2f} [{copied.low:.2f}, {copied.high:.2f}], free text {free.mean:.2f} "
            f"[{free.low:.2f}, {free.high:.2f}]: a small model repeats itself in free text, too"
        },
    )


def best_copier(results: Results) -> dict[str, Any]:
    """Prompt lookup against the others that need no trained draft."""
    ours, lines, verdicts = results.tokens_per_call(LOOKUP, COPYING), [], []
    for other in (AHEAD, RETRIEVAL):
        gain = mean_interval(np.subtract(ours, results.tokens_per_call(other, COPYING)))
        lines.append(f"over {other} {told(gain, 2)}")
        verdicts.append(sign_verdict(gain))
    return claim(
        "SmolLM2: of the drafters that need no trained model, prompt lookup is best where text is copied (tokens per call)",
        "Spec-Bench, summarisation: PLD first",
        f"{np.mean(ours):.2f} tokens per call; " + ", ".join(lines),
        verdicts,
        {None: "an interval contains zero", False: "another one is better"},
    )


def ordered(values: Mapping[str, float]) -> str:
    """``a 2.10 > b 1.50``."""
    return " > ".join(f"{name} {value:.2f}" for name, value in sorted(values.items(), key=lambda item: -item[1]))


def same_order(values: Mapping[str, float]) -> bool:
    """Whether the values fall in the order in which they are given."""
    return all(a > b for a, b in itertools.pairwise(values.values()))


def order_of_tokens(results: Results, chain: str) -> dict[str, Any]:
    """Spec-Bench's order by tokens per call."""
    values = {arm: results.mean_tokens_per_call(arm) for arm in (chain, RETRIEVAL, LOOKUP, AHEAD)}
    return claim(
        "SmolLM2: order by tokens per call over all families",
        "Spec-Bench, Vicuna-7B: SpS 2.28 > REST 1.82 > PLD 1.75 > lookahead 1.64",
        ordered(values),
        [same_order(values)],
        {
            False: "REST's collection has gigabytes, ours a few thousand tokens of the model's own; half of our families copy"
        },
    )


def free_passes(results: Results) -> dict[str, Any]:
    """What the original papers assume of the cost."""
    costs = {int(count): cost for count, cost in results.curve["costs"][""].items()}
    few = {count: cost for count, cost in costs.items() if 1 < count <= 16}
    shown = ", ".join(f"{count}: {costs[count]:.2f}" for count in sorted(costs))
    return claim(
        f"A pass over a few tokens (up to 16) costs what a pass over one does, within {FREE - 1:.0%}",
        "v = 1: decoding waits for memory (theorem 3.8 of Leviathan et al.)",
        f"T(n) / T(1) by n: {shown}; T(1) = {results.curve['milliseconds']:.1f} ms",
        [max(few.values()) <= FREE],
        {False: "a processor computes as long as it waits for the weights: v is not 1, and has to be measured"},
    )


def predicted_speeds(results: Results) -> dict[str, Any]:
    """The speed model with measured costs."""
    lines, verdicts = [], []
    for arm in results.fixed_arms():
        predicted, measured = results.predicted(arm), results.speed_up(arm.name)
        lines.append(f"{arm.name} {measured:.2f} ({predicted:.2f})")
        verdicts.append(abs(measured / predicted - 1) <= PREDICTED)
    load = results.timing["foreign_load"]
    return claim(
        f"SmolLM2: the speed-up is E / (v + c) with measured v and c, within {PREDICTED:.0%}",
        "theorem 3.8 of Leviathan et al., v = 1 there",
        "; ".join(lines),
        verdicts,
        {False: f"drafting, verifying and committing cost time, too; load by others {load_told(load)}"},
    )


def load_told(load: float | None) -> str:
    """``0.31 cores``."""
    return "unknown" if load is None else f"{load:.2f} cores"


def published_speeds(results: Results, chain: str) -> list[dict[str, Any]]:
    """Speed-ups on a GPU, beside ours on a processor."""
    rows = [
        ("prompt lookup, summarisation", LOOKUP, ["summarise"], (2.4, 2.66), "PLD: about 2.4x; Spec-Bench 2.66x (A100, 7B)"),
        (f"prompt lookup, {' and '.join(COPYING)}", LOOKUP, COPYING, (2.4, 2.4), "PLD: about 2.4x on input-grounded tasks"),
        ("lookahead (small), all families", SMALL_AHEAD, None, (1.5, 2.3), "1.5x to 2.3x (one GPU); Spec-Bench 1.34x"),
        ("retrieval, chat", RETRIEVAL, ["chat"], (25.9 / 16.0, 44.3 / 25.1), "REST: 1.62x to 1.76x (Vicuna, MT-Bench, A6000)"),
        ("retrieval, code", RETRIEVAL, ["code"], (44.5 / 20.5, 27.9 / 11.8),
         "REST: 2.12x to 2.36x (CodeLlama, HumanEval, A6000)"),
        ("draft model, all families", chain, None, (1.52, 1.54), "Spec-Bench, SpS with a 68M draft: 1.52x (7B), 1.54x (13B)"),
    ]  # fmt: skip
    return [speed_claim(results, *row) for row in rows]


def speed_claim(
    results: Results, text: str, arm: str, families: Sequence[str] | None, span: tuple[float, float], paper: str
) -> dict[str, Any]:
    """One published speed-up; reproduced if ours is at least its lower end, less the tolerance."""
    measured = results.speed_up(arm, families)
    tokens = results.timed_tokens_per_call(arm, families)
    (timed,) = (one for one in results.timed_arms if one.name == arm)
    verdict = None if np.isnan(measured) else bool(measured >= span[0] * (1 - SPEED))
    cost = results.step_cost(timed) + results.drafting_cost(timed)
    return claim(
        f"SmolLM2 on a processor, batch 1: speed-up of {text} (at least {span[0] * (1 - SPEED):.2f}x)",
        paper,
        f"{measured:.2f}x at {tokens:.2f} tokens per call; a step costs {cost:.2f} plain steps",
        [verdict],
        {None: "not timed", False: f"a step costs {cost:.2f} plain steps here and about one on a GPU"},
    )


def order_of_speeds(results: Results, chain: str) -> dict[str, Any]:
    """Spec-Bench's order by speed."""
    values = {arm: results.speed_up(arm) for arm in (LOOKUP, chain, RETRIEVAL, SMALL_AHEAD)}
    return claim(
        "SmolLM2 on a processor: order by speed over all families",
        "Spec-Bench, Vicuna-7B: PLD 1.66x > SpS 1.52x > REST 1.48x > lookahead 1.34x",
        ordered(values),
        [same_order(values)],
        {False: "costs of a pass decide here: trees and draft models that are nearly free on a GPU are not"},
    )
