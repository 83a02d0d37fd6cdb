"""Deliberately wrong methods, each with the promise it breaks: the checks must catch every one of them."""

import dataclasses

import jax.numpy as jnp

from jaxdec.cache import PagedCache
from jaxdec.cache.pages import NOWHERE
from jaxdec.decoding import Autoregressive, Sampling
from jaxdec.decoding.beam_search import BeamSearch
from jaxdec.decoding.speculative import Speculative
from jaxdec.decoding.speculative.verification import SpeculativeSampling
from tests.decoding.speculative.drafters import DrawnFromLaw


class ForgetsToCommit(Autoregressive):
    """Every third step leaves its token out of the cache."""

    def step(self, model, state):
        after = super().step(model, state)
        forget = (state.length % 3 == 0).astype(jnp.int32)
        return after.replace(cache=after.cache.commit(None, -forget))


class SharesPositions(Autoregressive):
    """All rows take the position of the longest one."""

    def step(self, model, state):
        last = (state.length - 1)[:, None]
        tokens = jnp.take_along_axis(state.tokens, last, axis=1)
        logits, _, cache = model(tokens, jnp.broadcast_to(last.max(), last.shape), state.cache)
        return self.extend(state.replace(cache=cache.commit(None, (~state.done).astype(jnp.int32))), logits[:, 0])


class OneTooMany(Autoregressive):
    """Goes one token beyond the budget."""

    def init(self, model, prompt):
        state = super().init(model, prompt)
        return state.replace(limit=state.limit + 1, done=jnp.zeros_like(state.done))


class DeafToEndTokens(Autoregressive):
    """Never looks for end tokens."""

    def init(self, model, prompt):
        return super().init(model, prompt.replace(eos_tokens=jnp.full_like(prompt.eos_tokens, -1)))


class Restless(Autoregressive):
    """Finished rows keep scoring."""

    def step(self, model, state):
        after = super().step(model, state)
        return after.replace(log_prob=after.log_prob - state.done)


class CountsTooFew(Autoregressive):
    """Forgets the prefill when it counts calls."""

    def init(self, model, prompt):
        state = super().init(model, prompt)
        return state.replace(stats=state.stats.replace(target_calls=state.stats.target_calls - 1))


class RecordsProcessedScores(Autoregressive):
    """Books the greedy choice as certain."""

    def extend(self, state, logits):
        return super().extend(state, logits).replace(log_prob=state.log_prob)


class ReadsUnusedSlots(Autoregressive):
    """Takes a look at the slot behind the text."""

    def step(self, model, state):
        peek = state.cache.keys[0][:, 0, -1, 0]
        return super().step(model, state.replace(log_prob=state.log_prob + 0 * peek))


class TooCold(Autoregressive):
    """Samples at a slightly lower temperature than declared."""

    def extend(self, state, logits):
        return super().extend(state, logits * 1.2)


class OneKeyForAll(Autoregressive):
    """All rows share one random key: each row's law is right, and the batch is one draw."""

    def init(self, model, prompt):
        return super().init(model, prompt.replace(keys=jnp.broadcast_to(prompt.keys[:1], prompt.keys.shape)))


class ReadsItsBatch(Autoregressive):
    """Prefers what the first row just said."""

    def extend(self, state, logits):
        rows = jnp.arange(logits.shape[0])
        first = jnp.take(state.tokens[0], state.length[0] - 1)
        return super().extend(state, logits.at[rows, first].add(jnp.where(rows > 0, 3.0, 0.0)))


class SharesOneCacheRow(BeamSearch):
    """Forgets to give the beams the cache rows of the texts they continue."""

    def extend(self, state, log_probs):
        return super().extend(state, log_probs).replace(cache=state.cache)


@dataclasses.dataclass(frozen=True)
class BatchMinimum(SpeculativeSampling):
    """All rows advance by the smallest number accepted in the batch, and each draws its bonus from the residual there.

    The rule of a published sampler: greedy text is right, single rows are right, and at batch > 1 the law is not.
    """

    def verify(self, sampling, tree, depth, logits, keys, max_depth):
        verified = super().verify(sampling, tree, depth, logits, keys, max_depth)
        fewest = jnp.broadcast_to(verified.accepted.min(), verified.accepted.shape)
        bonus = jnp.take_along_axis(verified.next_tokens, fewest[:, None], axis=1)[:, 0]
        return verified.replace(accepted=fewest, bonus=bonus)


def batch_minimum(sampling: Sampling) -> Speculative:
    """Drafts drawn from a law of their own, verified by the batch-minimum rule."""
    return Speculative(DrawnFromLaw(2, 6), sampling, BatchMinimum())


class DealsPagesWrongly(Autoregressive):
    """Changes the page table behind the prefill, where there is one."""

    def change(self, table):
        raise NotImplementedError

    def init(self, model, prompt):
        state = super().init(model, prompt)
        if not isinstance(state.cache, PagedCache):
            return state
        return state.replace(cache=state.cache.replace(page_table=self.change(state.cache.page_table)))


class SharesAPage(DealsPagesWrongly):
    """Gives the first row's first page to the second row as well."""

    def change(self, table):
        return table.at[1, 0].set(table[0, 0])


class TakesPages(DealsPagesWrongly):
    """Takes the third row's last two pages away."""

    def change(self, table):
        left = (table[2] != NOWHERE).sum() - 2
        return table.at[2].set(jnp.where(jnp.arange(table.shape[1]) < left, table[2], NOWHERE))
