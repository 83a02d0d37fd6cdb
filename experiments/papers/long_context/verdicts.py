"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules were fixed before anything was measured in full. Sizes, lengths and tasks are far from the paper's: a claim about an
order or a direction is judged by that order or direction here, and numbers of the paper are told beside ours.
"""

import itertools
import statistics
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from experiments.papers.long_context.iso_flops import crossover, points, sparse_wins
from experiments.papers.long_context.results import Results
from experiments.papers.long_context.swept_rules import DECODE, PREFILL
from jaxdec.evaluation import mean_interval
from jaxdec.evaluation.long_context.token_tasks import TASKS

BEST = {"prefill": "vertical_slash", "decode": "quest"}
EXACT = 1e-5
LEARNT = 0.2
"""How far above guessing a dense score must be before losing it says anything."""
BREAKS = 5.0
TELLS = 0.5
"""R^2 from which the law counts as telling."""
QWEN_PAIRS = (("14B", "7B"), ("32B", "14B"), ("72B", "32B"))


def all_claims(results: Results) -> list[dict[str, Any]]:
    """Judge every claim."""
    return [
        dense_at_everything(results),
        best_method(results, "prefill"),
        best_method(results, "decode"),
        decode_tolerates_more(results),
        something_breaks(results),
        no_method_everywhere(results),
        larger_models_tolerate_more(results),
        longer_prompts_tolerate_more(results),
        scope_matters(results),
        question_after_eviction(results),
        law(results, "prefill"),
        law(results, "decode"),
        sparse_is_worth_it(results),
        crossover_moves(),
        recall_orders(results),
        recall_with_length(results),
    ]


def learnt(results: Results, phase: str) -> list[tuple[int, str, int]]:
    """Model, task and length of the cells whose dense score is well above guessing."""
    return [
        (model, task, length)
        for model in range(len(results.params))
        for task in TASKS
        for length in results.lengths
        if results.accuracy(model, phase, task, length, BEST[phase], 1.0) >= results.chance[task] + LEARNT
    ]


def dense_at_everything(results: Results) -> dict[str, Any]:
    """Budgets of everything."""
    found = {one["method"]: [] for one in results.recall}
    for one in results.recall:
        if one["nominal"] == 1:
            found[one["method"]].append(one["error"])
    return claim(
        f"with a budget of everything every method is dense attention (error of the output at most {EXACT:g}, SmolLM2)",
        "methods differ from dense attention by what they leave out alone",
        ", ".join(f"{method} {max(errors):.0e}" for method, errors in found.items()),
        [max(errors) <= EXACT for errors in found.values()],
        {False: "an executor or a mask leaves something out"},
    )


def best_method(results: Results, phase: str) -> dict[str, Any]:
    """Mean accuracy over everything."""
    methods = PREFILL if phase == "prefill" else DECODE
    means = {method: results.mean_accuracy(phase, method) for method in methods}
    others = [method for method in methods if method != BEST[phase]]
    differences = {other: mean_interval(paired(results, phase, BEST[phase], other)) for other in others}
    return claim(
        f"{phase}: {BEST[phase]} is the best method on average over tasks, sizes, lengths and compressions",
        {"prefill": "Vertical-Slash is best of three (v1, Fig. 4)", "decode": "Quest is best of three (v1, Fig. 4)"}[
            phase
        ],
        ", ".join(f"{m} {mean:.3f} at {results.mean_compression(phase, m):.1f}x" for m, mean in means.items())
        + "; "
        + ", ".join(f"{BEST[phase]} over {other} {told(interval, 3)}" for other, interval in differences.items()),
        [sign_verdict(interval) for interval in differences.values()],
        {False: f"{max(means, key=means.__getitem__)} is better here", None: "the difference is within its interval"},
    )


def paired(results: Results, phase: str, ours: str, theirs: str) -> list[float]:
    """Differences of scores, sample by sample, over all cells above compression 1."""
    found = []
    for model, task, length, nominal in itertools.product(
        range(len(results.params)), TASKS, results.lengths, results.nominal
    ):
        one, two = (results.entry(model, phase, task, length, m, nominal)["scores"] for m in (ours, theirs))
        found.append(np.subtract(one, two))
    return np.concatenate(found).tolist()


def decode_tolerates_more(results: Results) -> dict[str, Any]:
    """Safe compressions of both phases."""
    both = [cell for cell in learnt(results, "decode") if cell in learnt(results, "prefill")]
    safe = {phase: [results.safe(*_place(cell, phase), BEST[phase]) for cell in both] for phase in BEST}
    geometric = {phase: statistics.geometric_mean(values) if values else 1.0 for phase, values in safe.items()}
    wins = sum(d > p for d, p in zip(safe["decode"], safe["prefill"]))
    losses = sum(d < p for d, p in zip(safe["decode"], safe["prefill"]))
    return claim(
        "decoding (Quest) tolerates a higher compression than prefill (vertical-slash)",
        "decode up to 20x, prefill 5 to 15x (v1, summary)",
        f"largest safe compression, geometric mean of {len(both)} cells: {geometric['decode']:.1f}x and "
        f"{geometric['prefill']:.1f}x; higher in {wins}, lower in {losses}",
        [geometric["decode"] > geometric["prefill"] if both else None],
        {
            False: "prompts are read by local heads, which lose nothing, and answers by few lookups",
            None: "nothing was learnt",
        },
    )


def something_breaks(results: Results) -> dict[str, Any]:
    """A task that breaks."""
    lowest = {}
    for phase, method in BEST.items():
        for model, length in itertools.product(range(len(results.params)), results.lengths):
            here = [cell for cell in learnt(results, phase) if (cell[0], cell[2]) == (model, length)]
            if here:
                lowest[phase, model, length] = min(results.safe(*_place(cell, phase), method) for cell in here)
    broken = sum(value < BREAKS for value in lowest.values())
    return claim(
        f"almost every setting has a task whose accuracy breaks below {BREAKS:g}x (size and length, best method of each phase)",
        "for most configurations at least one task degrades even at moderate compression (v1)",
        f"{broken} of {len(lowest)} settings",
        [broken >= 0.75 * len(lowest) if lowest else None],
        {False: "tasks in symbols ask for little of the text", None: "nothing was learnt"},
    )


def no_method_everywhere(results: Results) -> dict[str, Any]:
    """The best method by task and phase."""
    best = {}
    for phase, methods in (("prefill", PREFILL), ("decode", DECODE)):
        for task in TASKS:
            scores = {
                method: statistics.fmean(
                    results.accuracy(model, phase, task, length, method, nominal)
                    for model in range(len(results.params))
                    for length in results.lengths
                    for nominal in results.nominal
                )
                for method in methods
            }
            best[phase, task] = max(scores, key=scores.__getitem__)
    several = [len({best[phase, task] for task in TASKS}) > 1 for phase in BEST]
    return claim(
        "no method is best on every task of a phase",
        "there is no strategy that performs best across tasks and phases (v1, abstract)",
        ", ".join(f"{phase} {task}: {method}" for (phase, task), method in best.items()),
        [any(several)],
        {False: "one method is best on all three tasks of each phase"},
    )


def larger_models_tolerate_more(results: Results) -> dict[str, Any]:
    """Safe compression against size."""
    return _slope(
        results,
        "larger models tolerate a higher compression",
        "larger models can be sparser before they lose accuracy (v1, Fig. 3)",
        "size",
    )


def longer_prompts_tolerate_more(results: Results) -> dict[str, Any]:
    """Safe compression against length."""
    return _slope(
        results,
        "longer prompts tolerate a higher compression: fixed budgets are not optimal",
        "relative error at 1/20 of the budget 0.33, 0.26, 0.20 at 16K, 32K, 64K (v3)",
        "length",
    )


def _slope(results: Results, text: str, paper: str, axis: str) -> dict[str, Any]:
    """Loss of accuracy, relative to dense, per doubling of size or length: the mean of slopes with all else equal."""
    groups: dict[Any, list[tuple[float, float]]] = {}
    for phase, method in BEST.items():
        for model, task, length in learnt(results, phase):
            dense = results.accuracy(model, phase, task, length, method, 1.0)
            for nominal in results.nominal:
                lost = 1 - results.accuracy(model, phase, task, length, method, nominal) / dense
                at, equal = (results.params[model], length) if axis == "size" else (length, model)
                groups.setdefault((phase, task, nominal, equal), []).append((float(np.log2(at)), lost))
    slopes = {phase: [] for phase in BEST}
    for (phase, *_), pairs in groups.items():
        x, y = np.array(pairs).T
        if len(set(x)) > 1:
            slopes[phase].append(float(np.polyfit(x, y, 1)[0]))
    intervals = {phase: mean_interval(values) for phase, values in slopes.items() if values}
    return claim(
        text,
        paper,
        "change of the relative loss of accuracy per doubling: "
        + ", ".join(f"{phase} {told(interval, 3)}" for phase, interval in intervals.items()),
        [None if sign_verdict(i) is None else not sign_verdict(i) for i in intervals.values()] or [None],
        {False: "the loss grows instead in a phase", None: "an interval contains zero, or too little was learnt"},
    )


def scope_matters(results: Results) -> dict[str, Any]:
    """Counting against looking up, under eviction and pages."""
    lost: dict[str, list[float]] = {task: [] for task in TASKS}
    for model, task, length in learnt(results, "decode"):
        for method, nominal in itertools.product(DECODE, results.nominal):
            dense = results.accuracy(model, "decode", task, length, method, 1.0)
            lost[task].append(1 - results.accuracy(model, "decode", task, length, method, nominal) / dense)
    means = {task: statistics.fmean(values) for task, values in lost.items() if values}
    enough = "count" in means and "needle" in means
    return claim(
        "a task in which all of the text counts (count) loses more to rules of decoding than one that looks up (needle)",
        "low scope and dispersion tolerate a sparsity of .95, high ones fail at .5 to .67 (v3)",
        "relative loss, mean over sizes, lengths, methods and compressions: "
        + ", ".join(f"{task} {value:.2f}" for task, value in means.items()),
        [means["count"] > means["needle"] if enough else None],
        {False: "a few words of a list are enough to tell which are frequent", None: "a task was not learnt"},
    )


def question_after_eviction(results: Results) -> dict[str, Any]:
    """Quest against SnapKV without the question in the prompt."""
    gains: dict[bool, list[float]] = {True: [], False: []}
    for (model, task, length), nominal in itertools.product(learnt(results, "decode"), results.nominal):
        if task == "count":
            continue
        for asked in gains:
            quest, snapkv = (
                results.entry(model, "decode", task, length, method, nominal, asked=asked)["scores"]
                for method in ("quest", "snapkv")
            )
            gains[asked] += np.subtract(quest, snapkv).tolist()
    intervals = {asked: mean_interval(values) for asked, values in gains.items() if values}
    told_by = {True: "question in the prompt", False: "question behind it"}
    return claim(
        "Quest beats SnapKV at equal budgets where the question comes after eviction, and by more than where it comes before",
        "questions are put before and behind the context, so that eviction sees them",
        "difference of scores on needle and track: "
        + ", ".join(f"{told_by[asked]} {told(interval, 3)}" for asked, interval in intervals.items()),
        [sign_verdict(intervals[False]), intervals[False].mean > intervals[True].mean] if intervals else [None],
        {False: "it does not", None: "the interval contains zero, or too little was learnt"},
    )


def law(results: Results, phase: str) -> dict[str, Any]:
    """The scaling law."""
    fitted = results.law(phase, BEST[phase])
    signs = [fitted.params > 0, fitted.length < 0, fitted.compression < 0]
    paper = {"prefill": (".64 to .74", 1.3, -1.2, -1.0), "decode": (".57 to .64", 1.7, -1.0, -0.9)}[phase]
    return claim(
        f"{phase} ({BEST[phase]}): accuracy follows logit(acc) = eps + delta + alpha ln N + beta ln S + gamma ln C, "
        f"alpha > 0 > beta, gamma (R^2 at least {TELLS})",
        f"R^2 {paper[0]}; alpha {paper[1]}, beta {paper[2]}, gamma {paper[3]} (longest held out)",
        f"R^2 {fitted.r_squared:.2f}; alpha {fitted.params:.2f}, beta {fitted.length:.2f}, gamma {fitted.compression:.2f}; "
        + ", ".join(f"delta {task} {value:.2f}" for task, value in fitted.task.items()),
        [fitted.r_squared >= TELLS, *signs],
        {False: "a sign differs, or the law tells too little: three sizes within a factor of ten, lengths within four"},
    )


def sparse_is_worth_it(results: Results) -> dict[str, Any]:
    """IsoFLOPS with measured accuracies."""
    found = points(results)
    wins = {length: len(sparse_wins(found, length)) for length in results.lengths}
    longest = results.lengths[-1]
    return claim(
        "at long length, large and sparse beats small and dense at equal cost of the prefill (vertical-slash)",
        "from 32K to 64K tokens on for Qwen2.5 (v1, Fig. 2)",
        "sparse points that cost no more than a smaller dense model and are as accurate: "
        + ", ".join(f"{count} at S = {length}" for length, count in wins.items()),
        [wins[longest] > 0],
        {False: f"at {longest} tokens attention is too small a part of the cost to pay for a larger model"},
    )


def crossover_moves() -> dict[str, Any]:
    """By the formula alone."""
    compressions = (5.0, 10.0, 20.0)
    pairs = {(*pair, c): crossover(*pair, c) for pair in QWEN_PAIRS for c in compressions}
    squares = {pair: crossover(*pair, 10.0, "square") for pair in QWEN_PAIRS}
    falls = [(pairs[*pair, 20.0] or 1 << 30) <= (pairs[*pair, 5.0] or 1 << 30) for pair in QWEN_PAIRS]
    show = lambda length: "never" if length is None else f"{length >> 10}K"  # noqa: E731
    return claim(
        "by the formula, sparse larger models become as cheap as dense smaller ones at some length, sooner if sparser",
        "the crossover lies between 32K and 64K for Qwen2.5 (v1)",
        "; ".join(
            f"{large} as cheap as {small} dense at 5x, 10x, 20x from "
            + ", ".join(show(pairs[large, small, c]) for c in compressions)
            for large, small in QWEN_PAIRS
        )
        + " tokens (causal cells, no selecting); at 10x with the full square "
        + ", ".join(map(show, squares.values())),
        [all(falls), any(pairs.values())],
        {False: "no such length up to 1M"},
    )


def recall_orders(results: Results) -> dict[str, Any]:
    """Which method recalls more of SmolLM2's attention."""
    decode = results.recall_lengths("decode")
    pairs = [("decode", "quest", "snapkv", decode[-1])]
    prefill = results.recall_lengths("prefill")
    pairs.append(("prefill", "vertical_slash", "block_sparse", prefill[-1]))
    verdicts, parts = [], []
    for phase, ours, theirs, length in pairs:
        for nominal in results.recall_nominal:
            one, two = (results.recalled(method, length, nominal) for method in (ours, theirs))
            verdicts.append(one > two)
            parts.append(f"{phase} {nominal:g}x: {ours} {one:.2f}, {theirs} {two:.2f}")
    return claim(
        "SmolLM2's attention: Quest recalls more than SnapKV, vertical-slash more than block-sparse, at each compression",
        "not reported; the order of their accuracies",
        "; ".join(parts),
        verdicts,
        {False: "what an answer needs is not what most attention goes to"},
    )


def recall_with_length(results: Results) -> dict[str, Any]:
    """Recall against length at a fixed share."""
    lengths, verdicts, parts = results.recall_lengths("decode"), [], []
    nominal = results.recall_nominal[-1]
    for method in DECODE:
        found = [results.recalled(method, length, nominal) for length in lengths]
        verdicts.append(found[-1] > found[0])
        parts.append(f"{method} " + ", ".join(f"{value:.2f}" for value in found))
    return claim(
        f"SmolLM2's attention: at a fixed share of the tokens ({nominal:g}x) longer texts keep more of their attention",
        "longer sequences tolerate higher sparsity (v2)",
        f"recall at {', '.join(map(str, lengths))} tokens: " + "; ".join(parts),
        verdicts,
        {False: "it does not grow for every method"},
    )


def _place(cell: tuple[int, str, int], phase: str) -> tuple[int, str, str, int]:
    model, task, length = cell
    return model, phase, task, length
