"""A target of which every law is known: the next token depends on the last one alone."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.speculative.arms import counted, counts_of, finished, tokens_per_step
from jaxdec.cache import ContiguousCache
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative import DraftModel, ExactMatch, Speculative, SpeculativeSampling
from jaxdec.decoding.state import Guarantee, Prompt
from jaxdec.evaluation.acceptance import expected_tokens_per_call
from jaxdec.language_model import LanguageModel

STATES = 6
START = 2
ONE = Sampling(1.0)


class Markov(nn.Module):
    """``logits = log table[last token]``."""

    num_states: int

    @property
    def vocab_size(self) -> int:
        """Number of states."""
        return self.num_states

    @property
    def max_positions(self) -> int:
        """No position is used."""
        return 1 << 20

    def init_cache(self, batch_size: int, capacity: int) -> ContiguousCache:
        """A cache that nothing is read from."""
        return ContiguousCache.create(
            num_layers=1, batch_size=batch_size, capacity=capacity, num_kv_heads=1, head_dim=1, dtype=jnp.float32
        )

    @nn.compact
    def __call__(self, tokens, positions, cache, visible=None, logits_at=None):
        """Look the rows up."""
        table = self.param("log_table", nn.initializers.zeros, (self.num_states, self.num_states))
        entry = tokens[:, :, None, None].astype(jnp.float32)
        wanted = tokens if logits_at is None else jnp.take_along_axis(tokens, logits_at, axis=1)
        return table[wanted], jnp.zeros((*tokens.shape, 1)), cache.append(0, entry, entry)


def markov(table: np.ndarray) -> LanguageModel:
    """The language model of a transition table ``[V, V]`` of positive entries whose rows sum to one."""
    return LanguageModel(Markov(len(table)), {"log_table": jnp.asarray(np.log(table), jnp.float32)})


class Resampling(ExactMatch):
    """The published shortcut that biases the law: after a mismatch the draw is thrown away and another one made.

    REST, ADED and Medusa's nucleus rule draw a token behind each node and accept the guess that equals it; the next step then
    draws again from the same law. With one guess ``x`` the law becomes ``p(x) + (1 - p(x)) p(x)`` for ``x``.
    """

    def guarantee(self, sampling: Sampling) -> Guarantee:
        """None."""
        return Guarantee.APPROXIMATE

    def verify(self, sampling, tree, depth, logits, keys, max_depth):
        """Exact match with a second draw."""
        verified = super().verify(sampling, tree, depth, logits, keys, max_depth)
        again = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 1)))(keys)
        second = sampling.draw(jnp.take_along_axis(again, depth, axis=1), logits)
        ends = jnp.take_along_axis(verified.path, jnp.maximum(verified.accepted - 1, 0)[:, None], axis=1) + 1
        ends = jnp.where(verified.accepted[:, None] > 0, ends, 0)
        return verified.replace(bonus=jnp.take_along_axis(second, ends, axis=1)[:, 0])


LAW_METHODS: dict[str, Any] = {
    "speculative sampling, chain of 3": Speculative(DraftModel((1, 1, 1), ONE), ONE, SpeculativeSampling()),
    "exact match, tree of likeliest tokens": Speculative(DraftModel((2, 2), GREEDY), ONE),
    "exact match, chain of 2 likeliest tokens": Speculative(DraftModel((1, 1), GREEDY), ONE),
}
CONTROL = Speculative(DraftModel((1,), GREEDY), ONE, Resampling())


def biased(p: np.ndarray, guess: int) -> np.ndarray:
    """The law of one token under :class:`Resampling` with one guess."""
    law = (1 - p[guess]) * p
    law[guess] += p[guess]
    return law


def distance(observed: np.ndarray, law: np.ndarray) -> float:
    """Total variation between counts and a law."""
    return float(np.abs(observed / observed.sum() - law).sum() / 2)


def law_results(num_draws: int, seed: int, progress: Progress) -> dict[str, Any]:
    """How far the joint law of neighbouring tokens is from what it should be.

    Returns:
      ``methods``: by name the total variation of tokens 1 and 2 and of tokens 2 and 3 (the first one comes from the prefill,
      and is drawn plainly by all); ``control``: the same of tokens 1 and 2 against the right law and against the biased one;
      ``noise``: that of plain sampling; ``draws``.
    """
    rng = np.random.default_rng(seed)
    target, draft = (rng.dirichlet(np.full(STATES, 0.9), STATES) for _ in range(2))
    target, draft = (0.98 * table + 0.02 / STATES for table in (target, draft))
    model = markov(target).accompanied(draft=markov(draft))
    first = target[START]
    pair = first[:, None] * target
    next_pair = (first @ target)[:, None] * target
    control_pair = first[:, None] * np.stack(
        [biased(target[last], int(draft[last].argmax())) for last in range(STATES)]
    )
    prompt = Prompt.create([[START]] * num_draws, 4, seed=seed)
    methods = {"plain sampling": CONTROL.plain, **LAW_METHODS, "control": CONTROL}
    tokens = {}
    with progress.task("laws on a Markov target", len(methods)) as advance:
        for name, method in methods.items():
            tokens[name] = np.asarray(method.result(finished(method, model, prompt)).tokens)[:, 0]
            advance(name)

    def joint(name: str, place: int) -> np.ndarray:
        table = np.zeros((STATES, STATES))
        np.add.at(table, (tokens[name][:, place], tokens[name][:, place + 1]), 1)
        return table

    return {
        "draws": num_draws,
        "methods": {
            name: {"first": distance(joint(name, 0), pair), "second": distance(joint(name, 1), next_pair)}
            for name in methods
            if name != "control"
        },
        "control": {
            "right": distance(joint("control", 0), pair),
            "biased": distance(joint("control", 0), control_pair),
            "between": float(np.abs(pair - control_pair).sum() / 2),
        },
    }


def formula_results(
    acceptances: list[float], lengths: list[int], num_rows: int, budget: int, seed: int, progress: Progress
) -> list[dict[str, float]]:
    """Tokens per step where every guess is accepted with the same chance ``a``, independently, beside the formula."""
    results = []
    target = np.full((STATES, STATES), 1 / STATES)
    prompt = Prompt.create([[START]] * num_rows, budget, seed=seed)
    with progress.task("the formula on a Markov target", len(lengths) * len(acceptances)) as advance:
        for length in lengths:
            for chance in acceptances:
                shift = (1 - chance) / (STATES // 2) * np.where(np.arange(STATES) < STATES // 2, 1, -1)
                model = markov(target).accompanied(draft=markov(target + shift))
                method = Speculative(DraftModel((1,) * length, ONE), ONE, SpeculativeSampling())
                counts = counts_of(counted(method, finished(method, model, prompt)))
                results.append(
                    {
                        "a": chance,
                        "g": length,
                        "acceptance": counts.chain_chance or 0.0,
                        "measured": tokens_per_step(counts, num_rows),
                        "formula": expected_tokens_per_call([chance] * length),
                    }
                )
                advance("")
    return results
