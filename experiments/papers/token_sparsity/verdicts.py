"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules were fixed before anything was measured in full. The paper's models read video and images; ours reads text, so what
is judged is the shape of a result and not its number.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from experiments.papers.token_sparsity.arms import DENSE, DYNAMIC, EXTREMES, HALF, KEYS, dynamic
from jaxdec.evaluation import Interval, mean_interval
from jaxdec.evaluation.perplexity import perplexity_change

FIXED = "fixed, as many on average"
SPREAD = 0.1
"""How far apart the ratios of two layers must be to differ."""
SMALL = 0.01
"""Change of perplexity that this project set out to stay below at four and two bits, half of the tokens important."""
CUT = 0.5
"""Part of the memory that the paper saves."""
FASTER = 2.6
"""Times that the paper's prefill is faster, at 128K tokens."""


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
      thresholds: of the published rule.
      texts: :func:`scores_part` of continuations.
      needles: :func:`scores_part` of answers.
      ratios: :func:`ratios_part`, of texts and of needles.
      caches: :func:`scores_part` of other, longer continuations by rules of the cache, ``dense`` among them.
      nbytes: :func:`bytes_part`.
      prefill: :func:`prefill_part`.
    """

    thresholds: tuple[float, ...]
    texts: Mapping[str, Any]
    needles: Mapping[str, Any]
    ratios: Mapping[str, Mapping[str, Any]]
    caches: Mapping[str, Any]
    nbytes: Mapping[str, int]
    prefill: list[dict[str, Any]]

    @property
    def middle(self) -> str:
        """The threshold that the other arms vary."""
        return dynamic(self.thresholds[len(self.thresholds) // 2])

    def change(self, arm: str, than: str = DENSE) -> Interval:
        """Relative change of the perplexity of continuations by a rule for prompts."""
        return perplexity_change(self.texts[than]["surprisal"], self.texts[arm]["surprisal"])

    def cache_change(self, arm: str) -> Interval:
        """Relative change of the perplexity of continuations by a rule of the cache."""
        return perplexity_change(self.caches[DENSE]["surprisal"], self.caches[arm]["surprisal"])

    def ratio(self, source: str, arm: str) -> float:
        """Mean share of important tokens."""
        return float(np.mean(self.ratios[source][arm]["ratio"]))


def all_claims(results: Results) -> list[dict[str, Any]]:
    """Judge every claim."""
    return [
        layers_differ(results),
        harder_texts(results),
        dynamic_beats_fixed(results),
        normalised(results),
        both_probes(results),
        small_loss(results),
        two_precisions(results),
        finer_keys(results),
        memory(results),
        prefill(results),
    ]


def layers_differ(results: Results) -> dict[str, Any]:
    """The ratio follows the layer."""
    by_layer = np.mean(results.ratios["texts"][results.middle]["ratio"], axis=0)
    spread = float(by_layer.max() - by_layer.min())
    return claim(
        "the share of important tokens differs from layer to layer",
        "attention maps are sparse, how sparse depends on the layer",
        f"{by_layer.min():.2f} to {by_layer.max():.2f}, mean {by_layer.mean():.2f} ({results.middle})",
        [spread >= SPREAD],
        {False: f"less than {SPREAD} apart"},
    )


def harder_texts(results: Results) -> dict[str, Any]:
    """The ratio follows the text."""
    texts, needles = ([float(np.mean(row)) for row in results.ratios[source][results.middle]["ratio"]]
                      for source in ("texts", "needles"))  # fmt: skip
    return claim(
        "texts that say more keep more tokens than a filler that repeats itself",
        "fewer tokens are important in easy inputs",
        f"{np.mean(texts):.3f} of prose and code, {np.mean(needles):.3f} of a filler with a needle ({results.middle})",
        [bool(np.mean(texts) > np.mean(needles))],
        {False: "the filler keeps as many or more"},
    )


def dynamic_beats_fixed(results: Results) -> dict[str, Any]:
    """The paper's own evidence."""
    found = results.change(FIXED, results.middle)
    return claim(
        "as many tokens on average, the same number in every layer and text, are worse than a dynamic number",
        "Video-MME, LongVA-7B, 42.1% of the tokens: 52.4 dynamic, 51.1 fixed",
        f"perplexity of the fixed number relative to the dynamic one: {percent(found)}; "
        f"needles found {share(results.needles[FIXED])} against {share(results.needles[results.middle])}",
        [sign_verdict(found)],
        {None: "the interval contains zero", False: "the fixed number is better"},
    )


def normalised(results: Results) -> dict[str, Any]:
    """Equation 8."""
    found = results.change("by attention received", results.middle)
    return claim(
        "choosing by attention received, and not by that per query that can see the token, is worse",
        "early tokens would win by being seen by more queries",
        f"perplexity {percent(found)} against the published choice",
        [sign_verdict(found)],
        {None: "the interval contains zero", False: "it is better"},
    )


def both_probes(results: Results) -> dict[str, Any]:
    """Last and drawn probes."""
    found = [results.change(f"{kind} probes alone", results.middle) for kind in ("last", "drawn")]
    return claim(
        "probes that are the last queries alone, or drawn ones alone, are worse than both kinds",
        "64 most recent and 64 random queries",
        f"perplexity with the last alone {percent(found[0])}, with drawn ones alone {percent(found[1])}",
        [sign_verdict(one) for one in found],
        {None: "an interval contains zero", False: "one kind alone is better"},
    )


def small_loss(results: Results) -> dict[str, Any]:
    """Quality at the published threshold."""
    found = results.change(results.middle)
    skipped = float(np.mean(results.ratios["texts"][results.middle]["skipped"]))
    return claim(
        "attention among important tokens alone loses little",
        "Video-MME, LongVA-7B, threshold 0.975: -0.2% and 77% of the attention's operations saved",
        f"perplexity {percent(found)} with {skipped:.0%} of the causal cells not computed; needles found "
        f"{share(results.needles[results.middle])}, dense {share(results.needles[DENSE])}",
        [found.high < 0.05],
        {False: "perplexity rises by 5% or more: a small model of text has no tokens to spare as video has"},
    )


def two_precisions(results: Results) -> dict[str, Any]:
    """The cache at four and two bits."""
    found = results.cache_change(HALF)
    others = {name: percent(results.cache_change(arm)) for name, arm in (
        ("all at 4 bits", "int4"), ("all at 2 bits", "int2"), ("ranges by extremes, as published,", HALF + EXTREMES),
    )}  # fmt: skip
    return claim(
        f"perplexity changes by less than {SMALL:.0%} with half of the tokens at 4 bits and half at 2 bits",
        "GSM8k, LLaMA3-8B: 55.88 full, 54.06 at 28.6% important (6.18 times smaller)",
        f"{percent(found)} of {len(results.caches[HALF]['surprisal'])} texts; "
        + ", ".join(f"{name} {value}" for name, value in others.items()),
        [found.high < SMALL if found.high < SMALL or found.low > SMALL else None],
        {None: "the interval contains the bound", False: "it changes by more"},
    )


def finer_keys(results: Results) -> dict[str, Any]:
    """The same with four bits for all keys."""
    found = results.cache_change(KEYS)
    return claim(
        f"not in the paper: by less than {SMALL:.0%} with the keys of the others at 4 bits too, their values at 2 bits",
        "keys and values of a token have the same bits",
        f"{percent(found)} of {len(results.caches[KEYS]['surprisal'])} texts; "
        f"{results.nbytes[KEYS] / results.nbytes[HALF] - 1:+.0%} bytes",
        [found.high < SMALL if found.high < SMALL or found.low > SMALL else None],
        {None: "the interval contains the bound", False: "it changes by more"},
    )


def memory(results: Results) -> dict[str, Any]:
    """Bytes."""
    full, half = results.nbytes[DENSE], results.nbytes[HALF]
    return claim(
        "the cache takes less than half of the memory, counted from its arrays, against 2-byte keys and values",
        "memory -50.0% (activations of the prefill included)",
        f"{half / 1e6:.1f} MB against {full / 1e6:.1f} MB, a prompt in bfloat16 ({1 - half / full:.0%} less); "
        f"with a dynamic number {results.nbytes[DYNAMIC] / 1e6:.1f} MB",
        [half / full < 1 - CUT],
        {False: "half or more: the newest tokens are not packed, and this prompt is short"},
    )


def prefill(results: Results) -> dict[str, Any]:
    """Time."""
    found = []
    for case in results.prefill:
        gains = np.divide(case["milliseconds"][DENSE], case["milliseconds"][results.middle])
        found.append((case["length"], float(np.median(gains))))
    told_gains = ", ".join(f"{gain:.2f} at {length}" for length, gain in found)
    return claim(
        "the whole prefill is faster, the more so the longer the prompt",
        f"{FASTER} times at 128K tokens",
        f"times faster: {told_gains} tokens",
        [found[-1][1] > 1, found[-1][1] >= found[0][1]],
        {False: "not faster at the lengths that a small model reads: attention is a small part of its prefill"},
    )


def percent(change: Interval) -> str:
    """An interval in percent."""
    return f"{told(Interval(*(100 * value for value in change)), 2)}%"


def share(scores: Mapping[str, Any]) -> str:
    """How many answers are the best."""
    return f"{sum(scores['best'])} of {len(scores['best'])}"


def mean_surprisal(scores: Mapping[str, Any]) -> float:
    """Of all texts, in nats per token."""
    return mean_interval(scores["surprisal"]).mean
