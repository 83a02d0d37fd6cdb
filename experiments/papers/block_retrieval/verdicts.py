"""The paper's claims, judged: what it says, what we measured, and whether that is the same.

The rules were fixed before anything was measured in full. Two arms are compared question by question (or window by window), by
the mean difference and its bootstrap interval (95 %): an interval that contains zero decides nothing. Numbers of the paper's
tables were not at hand.
"""

from typing import Any

import numpy as np

from experiments.papers.block_retrieval.results import EVERYTHING, NO_BLOCKS, OURS, Results
from experiments.papers.block_retrieval.texts import PLACES
from experiments.papers.diverse_beam.claims import claim, sign_verdict, told
from jaxdec.evaluation import mean_interval

EXACT = 1e-3
"""Largest difference of log-probabilities between two ways to add up the same softmax in float32, over all layers."""
NO_WORSE = 0.1
"""Part of the questions that an arm may lose to count as no worse than reading everything."""


def all_claims(results: Results) -> list[dict[str, Any]]:
    """Judge every claim."""
    return [
        exact(results),
        *(better_probe(results, rival, place) for rival in ("mean", "max_norm", "last") for place in PLACES),
        covers_more(results),
        layers_differ(results),
        *(dynamic_helps(results, temperature) for temperature in results.temperatures),
        as_good_as_everything(results),
        better_than_no_blocks(results),
    ]


def exact(results: Results) -> dict[str, Any]:
    """Retrieving everything."""
    found = results.exact
    return claim(
        f"with room for all blocks, log-probabilities are those of dense attention within {EXACT:g}",
        "not so there: what is retrieved has no positions",
        f"largest difference {found['difference']:.1e}, up to {found['blocks']} blocks",
        [found["difference"] <= EXACT],
        {False: "they differ by more than rounding"},
    )


def better_probe(results: Results, rival: str, place: str) -> dict[str, Any]:
    """Recall, at all budgets."""
    pairs = {k: (results.found(place, "activation", k), results.found(place, rival, k)) for k in results.budgets}
    gains = {k: mean_interval(ours - theirs) for k, (ours, theirs) in pairs.items()}
    where = "in the middle" if place == "middle" else "at the end"
    return claim(
        f"question {where} of its window: the activation probe finds the fact's block in more layers than {rival}, "
        "at every budget",
        "the activation bias finds the tokens that matter; best among all that were compared",
        "; ".join(
            f"{k} blocks: {ours.mean():.3f} to {theirs.mean():.3f}, {told(gains[k], 3)}"
            for k, (ours, theirs) in pairs.items()
        ),
        [sign_verdict(gain) for gain in gains.values()],
        {False: f"{rival} finds it more often at a budget", None: "an interval contains zero"},
    )


def covers_more(results: Results) -> dict[str, Any]:
    """Attention."""
    budget = results.rule.top_blocks
    gains = {
        place: mean_interval(results.covered(place, "activation", budget) - results.covered(place, "mean", budget))
        for place in PLACES
    }
    return claim(
        f"{budget} blocks of the activation probe hold more of the question's attention than those of the mean",
        "retrieval by the probe query is more effective",
        "; ".join(f"{place}: {told(gain, 3)}" for place, gain in gains.items()),
        [sign_verdict(gain) for gain in gains.values()],
        {False: "they hold less", None: "an interval contains zero"},
    )


def layers_differ(results: Results) -> dict[str, Any]:
    """Densities, as published."""
    found = results.densities(results.temperatures[0])
    between, within = found.mean(axis=0).std(), found.std(axis=0).mean()
    return claim(
        "layers differ in information density by more than one layer does from window to window",
        "densities differ from layer to layer, which is what budgets are shared by",
        f"means of layers from {found.mean(axis=0).min():.4f} to {found.mean(axis=0).max():.4f}; standard deviation "
        f"{between:.1e} between layers, {within:.1e} within one",
        [bool(between > within)],
        {False: "they differ less"},
    )


def dynamic_helps(results: Results, temperature: str) -> dict[str, Any]:
    """Recall at one total."""
    gains, moved = {}, []
    for budget in results.budgets:
        found = results.shared(temperature, budget)
        gains[budget] = mean_interval(found["dynamic"] - found["equal"])
        moved.append(float(np.abs(found["blocks"] - found["blocks"].mean()).mean() / budget))
    published = temperature == results.temperatures[0]
    return claim(
        f"budgets that follow densities (temperature {float(temperature):g}{', as published' if published else ''}) find the "
        "fact's block in more layers than equal ones of the same total, at every budget",
        "layers of high density need more blocks",
        f"{'; '.join(f'{k} blocks: {told(gain, 4)}' for k, gain in gains.items())}; layers depart from the mean by "
        f"{100 * np.mean(moved):.1f}%",
        [sign_verdict(gain) for gain in gains.values()],
        {False: "equal budgets find it more often at a budget", None: "an interval contains zero"},
    )


def as_good_as_everything(results: Results) -> dict[str, Any]:
    """Answers and texts."""
    gain = mean_interval(results.right(OURS) - results.right(EVERYTHING))
    after = results.without_blocks
    more = mean_interval(results.surprisal(OURS, after) - results.surprisal(EVERYTHING, after))
    verdict = True if gain.low >= -NO_WORSE else False if gain.high < -NO_WORSE else None
    enough = results.right(EVERYTHING).mean() > 1.5 / 8
    return claim(
        f"answers are no worse than those of reading everything (at most {NO_WORSE:.0%} of the questions lost)",
        "competitive with full attention while 2K tokens are read",
        f"{results.right(OURS).mean():.2f} to {results.right(EVERYTHING).mean():.2f} right, {told(gain, 2)}, reading "
        f"{results.read(OURS):.0%} of the tokens; surprisal of the texts {told(more, 3)} nats",
        [verdict if enough else None],
        {False: "more are lost", None: "too few questions, or the model does not answer them with everything either"},
    )


def better_than_no_blocks(results: Results) -> dict[str, Any]:
    """What retrieval is for."""
    gain = mean_interval(results.log_prob(OURS) - results.log_prob(NO_BLOCKS))
    right = [results.right(arm).mean() for arm in (OURS, NO_BLOCKS)]
    return claim(
        "answers are likelier than with the sinks and the newest tokens alone",
        "better than StreamingLLM and LM-Infinite",
        f"log-probability of the answer {told(gain, 2)} nats; {right[0]:.2f} to {right[1]:.2f} right",
        [sign_verdict(gain)],
        {False: "they are less likely", None: "an interval contains zero"},
    )
