"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules were fixed before anything was measured in full, on documents with other seeds. Answers are compared by their
log-probability, question by question; a comparison is decided where the bootstrap interval (95 %) of the mean difference does
not contain zero.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from experiments.papers.chunk_sparsity.results import Results, gain, log_prob, right
from experiments.papers.diverse_beam.claims import claim, sign_verdict, told

ROUNDING = 1e-3
"""Largest difference of log-probabilities in float32 that is rounding."""
NEAR = 0.1
"""How much smaller the share of right answers may be and still count as near."""
FINDS = 2.0
"""Times chance that a recall has to be to count as better than chance."""


def all_claims(results: Results) -> list[dict[str, Any]]:
    """Judge every claim."""
    return [
        dense(results),
        bitwise(results),
        pairs(results),
        near_dense(results),
        markers(results, "log_prob", "answers"),
        markers(results, "last_section", "the last section's text"),
        oracle(results),
        *(beats_uniform(results, name) for name in ("oracle", "bm25", "query_key")),
        *(finds(results, name) for name in ("bm25", "query_key")),
        compression(results),
        re_positioning(results),
        log_mass(results),
    ]


def dense(results: Results) -> dict[str, Any]:
    """All chunks before."""
    whole = results.with_markers(True)[-1]
    worst = max(abs(one - two) for one, two in zip(whole["log_prob"], results.plain["log_prob"], strict=True))
    return claim(
        f"with as many chunks before as there are, answers are those of dense prefill (within {ROUNDING:g})",
        "the mask is then causal",
        f"previous = {whole['previous']}: largest difference of log-probabilities {worst:.1e}",
        [worst <= ROUNDING],
        {False: "they differ by more than rounding"},
    )


def bitwise(results: Results) -> dict[str, Any]:
    """All chunks chosen, through the host's memory."""
    lies = ", ".join(results.bilevel["dense_lies_in"])
    same = "bit by bit" if results.bilevel["bitwise"] else "not bit by bit"
    return claim(
        "with all chunks chosen the assembled cache is the one that was fed, bit by bit",
        "dense keys and values are re-loaded as they were",
        f"equal {same}; dense chunks lie in {lies} memory",
        [results.bilevel["bitwise"]],
        {False: "entries differ"},
    )


def pairs(results: Results) -> dict[str, Any]:
    """What prefill computes."""
    shares = {one["previous"]: one["share"] for one in results.with_markers(True)}
    chunks = results.bilevel["chunks"]
    falls = [one < two for one, two in itertools.pairwise(shares.values())]
    return claim(
        "the prefill computes a share of the causal pairs that falls with the chunks a token reads",
        "lowest average FLOPs among the models compared; the code prints pairs / (n (n + 1) / 2)",
        ", ".join(f"previous = {previous}: {share:.2f}" for previous, share in shares.items())
        + f" (of {chunks} chunks; {shares[results.previous]:.2f} where (previous + 1) / chunks is "
        f"{(results.previous + 1) / chunks:.2f}: causal pairs are half a square, and markers read all; the executor computes "
        f"{results.prefill(results.previous)['computed']:.2f}, whole blocks)",
        [all(falls)],
        {False: "it does not fall"},
    )


def near_dense(results: Results) -> dict[str, Any]:
    """Answers after chunked prefill."""
    ours, whole = results.prefill(results.previous), results.plain
    found = {one["previous"]: f"{right(one):.2f} ({log_prob(one):.2f})" for one in results.with_markers(True)}
    return claim(
        f"answers after chunked prefill with previous = {results.previous} are near those after dense prefill "
        f"(share right at most {NEAR:g} less)",
        "MLVU 74.9, Video-MME 66.4, LVBench 48.6 with three to eleven chunks before; no dense figure beside them",
        f"dense {right(whole):.2f} ({log_prob(whole):.2f}); "
        + ", ".join(f"previous = {previous}: {one}" for previous, one in found.items())
        + " (share right, mean log-probability)",
        [right(ours) >= right(whole) - NEAR],
        {False: "fewer answers are right"},
    )


def markers(results: Results, name: str, what: str) -> dict[str, Any]:
    """Global markers or none."""
    gains = {one["previous"]: gain(results.prefill(one["previous"]), one, name) for one in results.with_markers(False)}
    return claim(
        f"{what}: likelier with markers that are global than without",
        "markers carry information across chunks; not measured apart",
        ", ".join(f"previous = {previous}: {told(found, 3)}" for previous, found in gains.items()) + " nats",
        [sign_verdict(found) for found in gains.values()],
        {
            False: "less likely: facts lie within a chunk, so that nothing has to cross chunks, and the model was not trained "
            "with the mask",
            None: "an interval contains zero",
        },
    )


def oracle(results: Results) -> dict[str, Any]:
    """The right chunk dense."""
    ours, whole = results.arm("oracle", 1), results.arm("all")
    saved = 1 - ours["entries"] / results.bilevel["tokens"]
    return claim(
        f"with the relevant chunk dense and others pooled, answers are near those of all chunks dense (at most {NEAR:g} less)",
        "accuracy is kept; 1 - n'/n is printed and not reported",
        f"{right(ours):.2f} ({log_prob(ours):.2f}) against {right(whole):.2f} ({log_prob(whole):.2f}); "
        f"{ours['entries']:.0f} of {results.bilevel['tokens']} entries, 1 - n'/n = {saved:.2f}; difference "
        f"{told(gain(ours, whole), 2)} nats",
        [right(ours) >= right(whole) - NEAR],
        {False: "fewer answers are right"},
    )


def beats_uniform(results: Results, name: str) -> dict[str, Any]:
    """Against pooling everything, with at least as many bytes. The oracle with the largest windows, others at the main ones."""
    top = 1 if name == "oracle" else results.middle
    ours = results.sweep(name, 1)[-1] if name == "oracle" else results.arm(name, top)
    rivals = [arm for arm in results.sweep("none") if arm["bytes"] >= ours["bytes"]]
    rival = min(rivals, key=lambda arm: arm["bytes"], default=results.sweep("none")[0])
    found = gain(ours, rival)
    verdict = sign_verdict(found) if rivals else None
    return claim(
        f"{name}, top {top}: bi-level is better than pooling every chunk at as many bytes or more",
        "the sparsification is task-aware; not measured against uniform pooling",
        f"windows of {ours['compression']}: {right(ours):.2f} right with {ours['bytes'] / 1e6:.1f} MB; all pooled, windows of "
        f"{rival['compression']}: {right(rival):.2f} with {rival['bytes'] / 1e6:.1f} MB; difference {told(found, 2)} nats",
        [verdict],
        {False: "uniform pooling is better", None: "no uniform arm has as many bytes, or the interval contains zero"},
    )


def finds(results: Results, name: str) -> dict[str, Any]:
    """Retrieval without a second model."""
    tops = results.tops
    recalls = {top: results.recall(name, top) for top in tops}
    others = ""
    if name == "query_key":
        reductions = [key for key in results.bilevel["ranks"] if key.startswith("query_key ")]
        lists = [
            f"{key.split()[1]} {' / '.join(f'{results.recall(key, top):.2f}' for top in tops)}" for key in reductions
        ]
        others = f"; by other reductions {', '.join(lists)}"
    middle = results.middle
    return claim(
        f"{name} finds the chunk of the answer without a second model (among the {middle} best {FINDS:g} times as often as "
        "chance)",
        "a text-video retriever (LanguageBind) finds it, top 2 to 8 by category, indices precomputed",
        ", ".join(f"top {top}: {recall:.2f} (chance {results.chance(top):.2f})" for top, recall in recalls.items())
        + others,
        [recalls[middle] >= min(FINDS * results.chance(middle), 1)],
        {False: "it finds it hardly more often than chance"},
    )


def compression(results: Results) -> dict[str, Any]:
    """Larger windows."""

    def line(arms: list[Mapping[str, Any]]) -> str:
        return ", ".join(f"{arm['compression']}: {right(arm):.2f} ({log_prob(arm):.2f})" for arm in arms)

    pooled, found = results.sweep("none"), results.sweep("oracle", 1)
    steps = [right(two) >= right(one) - NEAR for one, two in itertools.pairwise(found)]
    return claim(
        f"with the relevant chunk dense, larger windows elsewhere cost nothing (share right at most {NEAR:g} less each)",
        "windows of 4 throughout",
        f"oracle by window: {line(found)}; all pooled: {line(pooled)}",
        [all(steps)],
        {False: "answers get worse with larger windows"},
    )


def re_positioning(results: Results) -> dict[str, Any]:
    """New numbers or old places."""
    gains = {
        name: gain(results.arm(name, top), results.arm(name, top, reposition=False))
        for name, top in (("oracle", 1), ("none", 0))
    }
    return claim(
        "numbering entries anew is better than keeping their places",
        "done in the code; not measured apart",
        "; ".join(f"{name}: {told(found, 3)} nats" for name, found in gains.items()),
        [sign_verdict(gains["oracle"])],
        {
            False: "keeping places is better: the document is far shorter than the context, so that places are no trouble",
            None: "the interval contains zero",
        },
    )


def log_mass(results: Results) -> dict[str, Any]:
    """The softmax's mass."""
    gains = {
        name: gain(results.arm(name, top, log_mass=True), results.arm(name, top))
        for name, top in (("oracle", 1), ("none", 0))
    }
    return claim(
        "raising pooled keys by log m, as many tokens as they stand for, is better than not",
        "not in the paper: exact for equal keys",
        "; ".join(f"{name}: {told(found, 3)} nats" for name, found in gains.items()),
        [sign_verdict(gains["oracle"])],
        {
            False: "it is worse: pooled keys are no copies of one key, and their weight is taken from the relevant chunk",
            None: "the interval contains zero",
        },
    )
