"""Diverse beam search: groups of beams, each told what the groups before it have just said.

Vijayakumar et al. 2016, "Diverse Beam Search: Decoding Diverse Solutions from Neural Sequence Models" (arXiv 1610.02424). The
``K`` beams are split into ``G`` groups of ``K / G``. At every step the groups move one after another, and group ``g`` extends
its texts by (eq. 2)

    argmax  sum over its K / G pairs (k, v) of   S(k) + log p(v | x, y^k) + lambda Delta(groups 1 .. g-1)[v]

with ``Delta`` minus the number of beams of earlier groups that took ``v`` at this step (Hamming), or one of the other forms of
:mod:`jaxdec.decoding.diversity`. All beams are fed in one forward pass: the penalties need no model. What is ours, or a choice:

- ``accumulate=True``: ``S`` keeps the penalties a text has taken (algorithm 1 and the authors' code); False: ``S`` is the
  log-probability, and a penalty acts on one choice only (the other reading of eq. 2).
- Each group is a beam search of its own (:mod:`jaxdec.decoding.beam_search`) with its own finished list and its own end. A text
  that ends leaves the running beams, so end tokens are neither counted nor penalised by ``hamming`` and ``cumulative`` (the
  authors' code keeps finished texts with score -1000 and penalises their end tokens, which makes later groups longer).
- Texts are ranked by unpenalised score, within and across groups: ``log_prob / length^length_penalty``.

The penalties align tokens by position: after the first difference between two groups, the same words cut into tokens at other
positions no longer meet. This holds for sub-word vocabularies above all.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdec.decoding import diversity as deltas
from jaxdec.decoding.beam_search import (
    Beams,
    BeamState,
    begin,
    check_settings,
    extend_beams,
    feed,
    rank,
    reorder_cache,
)
from jaxdec.decoding.diversity import DIVERSITIES, EarlierGroups
from jaxdec.decoding.state import Decoded, Guarantee, Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int, PyTree

GROUPED = ("tokens", "length", "log_prob", "running_score", "finished")


class DiverseBeamState(BeamState):
    """:class:`BeamState` whose beams, and places of the finished list, lie group after group.

    Attributes:
      group_done: groups whose search has ended; ``done`` is their conjunction.
    """

    group_done: Bool[Array, "B G"]


@dataclasses.dataclass(frozen=True)
class DiverseBeamSearch:
    """Diverse beam search. With ``num_groups=1`` it is :class:`~jaxdec.decoding.beam_search.BeamSearch`.

    Its guarantee is relative to the definition in the module docstring, of which the tests have a plain reference. Group 1 is
    always beam search with ``num_beams / num_groups`` beams. Different groups may return the same text.

    A group for which the model returns NaN, or no possible token at all, ends at once with ``log_prob`` and ``score`` NaN, and
    counts for no later group.

    Attributes:
      num_beams: running texts per prompt, all groups together; a multiple of ``num_groups``.
      num_groups: groups.
      diversity_strength: lambda; 0 makes all groups equal.
      diversity: ``"hamming"``, ``"cumulative"``, ``"ngram"`` or ``"embedding"`` (needs a model with token embeddings).
      accumulate: whether penalties stay in the running score.
      ngram_size: for ``"ngram"``.
      length_penalty: as in beam search.
      num_return: texts returned, best first over all groups; all ``num_beams`` by default.
      early_stopping: as in beam search, for each group.
    """

    num_beams: int = 4
    num_groups: int = 2
    diversity_strength: float | int = 0.5
    diversity: str = "hamming"
    accumulate: bool = True
    ngram_size: int = 2
    length_penalty: float | int = 1.0
    num_return: int | None = None
    early_stopping: bool | str = "never"

    def __post_init__(self):
        check_settings(self.num_beams, self.length_penalty, self.num_return, self.early_stopping)
        if self.num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {self.num_groups}")
        if self.num_beams % self.num_groups:
            raise ValueError(f"num_beams ({self.num_beams}) must be a multiple of num_groups ({self.num_groups})")
        if not (math.isfinite(self.diversity_strength) and self.diversity_strength >= 0):
            raise ValueError(f"diversity_strength must be a finite number >= 0, got {self.diversity_strength}")
        if self.diversity not in DIVERSITIES:
            raise ValueError(f"diversity must be one of {', '.join(DIVERSITIES)}, got {self.diversity!r}")
        if self.ngram_size < 1:
            raise ValueError(f"ngram_size must be at least 1, got {self.ngram_size}")

    @property
    def guarantee(self) -> Guarantee:
        """Identical to a plain diverse beam search, near-ties excepted."""
        return Guarantee.TOKEN_IDENTICAL

    @property
    def reference(self) -> str:
        """The definition in the module's docstring."""
        return "diverse beam search"

    @property
    def incremental(self) -> bool:
        """Which text is best is known at the end."""
        return False

    @property
    def width(self) -> int:
        """Beams of one group."""
        return self.num_beams // self.num_groups

    def init(self, model: LanguageModel, prompt: Prompt) -> DiverseBeamState:
        """Feed each prompt once and begin its ``num_beams`` texts.

        Raises:
          ValueError: a vocabulary too small for the beams of a group, or a model without token embeddings where the
            diversity is ``"embedding"``.
        """
        state, log_probs = begin(model, prompt, self.num_beams, self.width)
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        group_done = jnp.zeros((prompt.length.shape[0], self.num_groups), bool)
        return self.extend(model, DiverseBeamState(**fields, group_done=group_done), log_probs)

    def step(self, model: LanguageModel, state: DiverseBeamState) -> DiverseBeamState:
        """Feed the last token of every running text, then let the groups move in turn."""
        return self.extend(model, *feed(model, state, jnp.repeat(~state.group_done, self.width, axis=1)))

    def extend(
        self, model: LanguageModel, state: DiverseBeamState, log_probs: Float[Array, "B K V"]
    ) -> DiverseBeamState:
        """Extend the running texts by one token, given its log-probabilities, group by group."""
        table = model.token_embeddings() if self.diversity == "embedding" else None
        length = state.length.max(1)  # of the groups still searching; those that have ended are behind
        order = jnp.arange(self.num_groups)

        def move(earlier: EarlierGroups, group):
            number, done, fields, log_probs = group
            beams = Beams(**fields, done=done)
            overlap = self.overlap(earlier, beams, state.prompt_length, length, table, log_probs.shape[-1])
            after, parents = extend_beams(
                beams,
                log_probs,
                state.prompt_length,
                state.limit,
                state.eos_tokens,
                length_penalty=self.length_penalty,
                early_stopping=self.early_stopping,
                penalty=self.diversity_strength * overlap.astype(log_probs.dtype),
                accumulate=self.accumulate,
            )
            moved = ~done[:, None] & ~jnp.isneginf(after.running_score) & ~jnp.isnan(after.finished.score)
            place = (0, number * self.width)
            earlier = EarlierGroups(
                jax.lax.dynamic_update_slice(earlier.tokens, after.tokens, (*place, 0)),
                jax.lax.dynamic_update_slice(earlier.counts, moved, place),
            )
            return earlier, (after, parents + number * self.width)

        nobody = EarlierGroups(state.tokens, jnp.zeros(state.length.shape, bool))
        fields = self.split({name: getattr(state, name) for name in GROUPED})
        groups = (order, state.group_done.T, fields, self.split(log_probs))
        _, (after, parents) = jax.lax.scan(move, nobody, groups)
        group_done = after.done.T
        joined = {name: self.join(getattr(after, name)) for name in GROUPED}
        state = state.replace(**joined, group_done=group_done, done=group_done.all(1))
        return reorder_cache(state, self.join(parents))

    def overlap(
        self,
        earlier: EarlierGroups,
        beams: Beams,
        prompt_length: Int[Array, "B"],
        length: Int[Array, "B"],
        table: Float[Array, "V D"] | None,
        vocab_size: int,
    ) -> Float[Array, "B #W V"]:
        """``-Delta`` of the chosen form, for every candidate token of a group."""
        if self.diversity == "hamming":
            return deltas.hamming(earlier, length, vocab_size)
        if self.diversity == "cumulative":
            return deltas.cumulative(earlier, prompt_length, length, vocab_size)
        if self.diversity == "ngram":
            return deltas.ngram(earlier, beams.tokens, prompt_length, length, vocab_size, self.ngram_size)
        assert table is not None
        return deltas.embedding(earlier, length, table)

    def split(self, tree: PyTree) -> PyTree:
        """``[B, G * W, ...]`` to ``[G, B, W, ...]``."""
        shape = (self.num_groups, self.width)
        return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0], *shape, *x.shape[2:]), 1, 0), tree)

    def join(self, tree: PyTree) -> PyTree:
        """``[G, B, W, ...]`` to ``[B, G * W, ...]``."""
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], self.num_beams, *x.shape[3:]), tree)

    def done(self, state: DiverseBeamState) -> Bool[Array, "B"]:
        """Prompts all of whose groups have ended."""
        return state.done

    def result(self, state: DiverseBeamState) -> Decoded:
        """The best ``num_return`` texts of all groups; of groups not ended, running texts compete as they stand."""
        searched = jnp.repeat(state.group_done, self.width, axis=1)
        return rank(state, searched, self.num_return or self.num_beams, self.length_penalty)
