"""Speculative decoding: guess several tokens, check all guesses in one forward pass, keep what the target agrees with.

Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318); trees: Miao et al. 2023 (arXiv 2305.09781).
One step, for every row by itself:

    propose a tree -> one forward pass over root + tree -> verify -> emit the accepted path and one bonus token -> commit

With the root in the pass, the ``e`` tokens emitted are followed by ``e`` committed entries: the root and the first ``e - 1``
emitted tokens. The last emitted token is the next root. End tokens and budgets cut the emitted tokens, not the tree.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative.tree import DraftTree, ancestors
from jaxdec.decoding.speculative.verification import ExactMatch, Verification, Verified
from jaxdec.decoding.state import Decoded, DecodeState, Guarantee, Prompt, Stats
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Int, Key


@runtime_checkable
class Drafter(Protocol):
    """Where guesses come from: a frozen dataclass with a state of its own.

    Attributes of every drafter: ``num_nodes`` (nodes of its trees, padding included) and ``max_depth``.
    """

    @property
    def num_nodes(self) -> int:
        """Nodes per row."""
        ...

    @property
    def max_depth(self) -> int:
        """Longest path."""
        ...

    def init(self, model: LanguageModel, prompt: Prompt) -> Any:
        """Return the drafter's state for a batch; ``model.companions`` holds what it needs beside the prompt."""
        ...

    def propose(self, model: LanguageModel, drafter_state: Any, text: DecodeState) -> tuple[DraftTree, Any]:
        """Guess what follows each row's text."""
        ...

    def observe(
        self,
        model: LanguageModel,
        drafter_state: Any,
        tree: DraftTree,
        verified: Verified,
        before: DecodeState,
        after: DecodeState,
    ) -> Any:
        """Learn from the outcome: the text before and after the step."""
        ...


EXACT_MATCH = ExactMatch()


class SpeculativeStats(Stats):
    """Counters of speculative decoding, on top of ``target_calls``.

    Attributes:
      drafted: valid candidate nodes fed, by depth (1, 2, ...), summed over the row's steps.
      accepted: accepted nodes by depth; ``accepted[d] / steps`` is the chance to get that far.
      produced_by: per position of the text buffer, its producer: 0 prompt or prefill, 1 the target (bonus), 2 a draft.
    """

    drafted: Int[Array, "R A"]
    accepted: Int[Array, "R A"]
    produced_by: Int[Array, "R L"]


class SpeculativeState(DecodeState):
    """:class:`DecodeState` with the drafter's own state."""

    drafter: Any


@dataclasses.dataclass(frozen=True)
class Speculative:
    """A drafter and a verification rule.

    Attributes:
      drafter: where guesses come from.
      sampling: how the target chooses; greedy by default.
      verification: exact match unless the drafter draws its guesses from a law of its own.
      num_samples: texts per prompt.
    """

    drafter: Drafter
    sampling: Sampling = GREEDY
    verification: Verification = EXACT_MATCH
    num_samples: int = 1

    @property
    def plain(self) -> Autoregressive:
        """Plain decoding with the same sampling: feeds the prompt, and is what the text is compared with."""
        return Autoregressive(self.sampling, self.num_samples)

    @property
    def guarantee(self) -> Guarantee:
        """What the verification keeps of plain decoding."""
        return self.verification.guarantee(self.sampling)

    @property
    def reference(self) -> str:
        """Plain decoding."""
        return self.plain.reference

    @property
    def incremental(self) -> bool:
        """Each row is one text that only grows."""
        return True

    def init(self, model: LanguageModel, prompt: Prompt) -> SpeculativeState:
        """Feed the prompts, choose the first tokens, and prepare the drafter."""
        # An append of num_nodes + 1 entries at the last step must fit behind the longest text.
        roomy = prompt.replace(capacity=prompt.capacity + self.drafter.num_nodes + 1)
        text = self.plain.init(model, roomy)
        rows, positions = text.tokens.shape
        by_depth = jnp.zeros((rows, self.drafter.max_depth), jnp.int32)
        stats = SpeculativeStats(
            target_calls=text.stats.target_calls,
            drafted=by_depth,
            accepted=by_depth,
            produced_by=jnp.zeros((rows, positions), jnp.int32),
        )
        drafter = self.drafter.init(model, roomy.repeat(self.num_samples))
        fields = {field.name: getattr(text, field.name) for field in dataclasses.fields(text)}
        return SpeculativeState(**{**fields, "stats": stats}, drafter=drafter)

    def step(self, model: LanguageModel, state: SpeculativeState) -> SpeculativeState:
        """Propose, check, accept, commit."""
        max_depth = self.drafter.max_depth
        tree, drafter = self.drafter.propose(model, state.drafter, state)
        tree = tree.replace(tokens=tree.tokens.astype(jnp.int32))
        visible = ancestors(tree, max_depth)
        depth = visible.sum(-1).astype(jnp.int32) - 1
        root = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
        entries = jnp.concatenate([root, jnp.where(tree.valid, tree.tokens, 0)], axis=1)
        logits, _, cache = model(entries, state.length[:, None] - 1 + depth, state.cache, visible)
        keys = position_keys(state.rng, state.length, max_depth + 1)
        verified = self.verification.verify(self.sampling, tree, depth, logits, keys, max_depth)
        after = self.emit(state, tree, verified, logits, depth).replace(drafter=drafter)
        emitted = after.length - state.length
        path = jnp.concatenate([jnp.zeros_like(verified.path[:, :1]), verified.path + 1], axis=1)
        after = after.replace(cache=cache.commit(path, emitted))
        return after.replace(drafter=self.drafter.observe(model, drafter, tree, verified, state, after))

    def emit(self, state, tree, verified: Verified, logits, depth) -> SpeculativeState:
        """Append the accepted tokens and the bonus, up to the first end token and the budget."""
        max_depth = self.drafter.max_depth
        place = jnp.arange(max_depth + 1)
        drafted = jnp.take_along_axis(tree.tokens, verified.path, axis=1)
        block = jnp.where(
            place == verified.accepted[:, None], verified.bonus[:, None], jnp.pad(drafted, ((0, 0), (0, 1)))
        )
        ends = (block[..., None] == state.eos_tokens).any(-1) & (place <= verified.accepted[:, None])
        before_end = jnp.cumsum(ends, axis=1) - ends == 0
        keep = (place <= verified.accepted[:, None]) & before_end & (place < (state.limit - state.length)[:, None])
        keep = keep & ~state.done[:, None]
        emitted = keep.sum(-1).astype(jnp.int32)
        length = state.length + emitted
        # Entry whose logits gave block[i]: the root for i = 0, else path[i - 1].
        source = jnp.concatenate([jnp.zeros_like(verified.path[:, :1]), verified.path + 1], axis=1)
        chosen = jnp.take_along_axis(logits, source[..., None], axis=1)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(chosen, -1), block[..., None], axis=-1)[..., 0]
        offset = jnp.arange(state.tokens.shape[1]) - state.length[:, None]
        here = (offset >= 0) & (offset < emitted[:, None])
        new = jnp.take_along_axis(block, jnp.clip(offset, 0, max_depth), axis=1)
        by_draft = offset < verified.accepted[:, None]
        levels = jnp.arange(1, max_depth + 1)
        fed = (tree.valid & tree.candidate & ~state.done[:, None])[..., None] & (depth[:, 1:, None] == levels)
        stats = SpeculativeStats(
            target_calls=state.stats.target_calls + ~state.done,
            drafted=state.stats.drafted + fed.sum(1, dtype=jnp.int32),
            accepted=state.stats.accepted + ((levels <= verified.accepted[:, None]) & ~state.done[:, None]),
            produced_by=jnp.where(here, 1 + by_draft, state.stats.produced_by).astype(jnp.int32),
        )
        hit_end = (ends & keep).any(-1)
        return state.replace(
            tokens=jnp.where(here, new, state.tokens),
            length=length,
            done=state.done | hit_end | (length >= state.limit),
            log_prob=state.log_prob + jnp.where(keep, log_prob, 0).sum(-1),
            stats=stats,
        )

    def done(self, state: SpeculativeState) -> Bool[Array, "B"]:
        """Rows that ended."""
        return state.done

    def result(self, state: SpeculativeState) -> Decoded:
        """The texts, as plain decoding returns them."""
        return self.plain.result(state)


def position_keys(rng: Key[Array, "B"], length: Int[Array, "B"], count: int) -> Key[Array, "B A1"]:
    """Keys of text positions ``length, length + 1, ...``: those that plain decoding uses for them."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    return fold(rng, length[:, None] + jnp.arange(count))
