"""A small language model guesses for a large one.

Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318); trees of top-k guesses as in SpecInfer (Miao
et al. 2023, arXiv 2305.09781). The draft model is ``model.companions["draft"]``, any language model of the same vocabulary. It
keeps a cache of its own: at each step it is fed the tokens that the target has emitted since, and then

- as a chain (``branching=(1, 1, ...)``) draws ``g`` tokens one after another from its law ``q``, processed like the target's:
  with :class:`~jaxdec.decoding.speculative.verification.SpeculativeSampling` the text keeps the target's law;
- as a tree takes its ``k`` most probable tokens below every node of a level. These guesses are deterministic: exact match.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.cache import Cache
from jaxdec.decoding.prefill import feed_prompt
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative.tree import ROOT, DraftTree, ancestors, chain
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int, Key

COMPANION = "draft"
DRAWS = 1 << 29  # folded into a row's key, so that drafts and target draw independently


class DraftModelState(struct.PyTreeNode):
    """The draft model's side of the text.

    Attributes:
      cache: the text's tokens, up to what the target had emitted before the last step.
      rng: a key per row.
    """

    cache: Cache
    rng: Key[Array, "B"]


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """Guess with a second model.

    Attributes:
      branching: guesses below each node, level by level; ``(1, 1, 1, 1)`` is a chain of four.
      sampling: how a chain is drawn; a tree ignores it.
    """

    branching: tuple[int, ...] = (1, 1, 1, 1)
    sampling: Sampling = GREEDY

    def __post_init__(self):
        if not self.branching or min(self.branching) < 1:
            raise ValueError(f"branching must be a list of numbers of at least 1, got {self.branching}")

    @property
    def max_depth(self) -> int:
        """Levels."""
        return len(self.branching)

    @property
    def num_nodes(self) -> int:
        """Nodes of all levels."""
        return sum(math.prod(self.branching[: level + 1]) for level in range(self.max_depth))

    @property
    def is_chain(self) -> bool:
        """One guess per level."""
        return max(self.branching) == 1

    @property
    def is_read_only(self) -> bool:
        """The draft model is fed what it drafts behind."""
        return False

    def init(self, model: LanguageModel, prompt) -> DraftModelState:
        """Feed the prompt to the draft model."""
        draft = model.companions.get(COMPANION)
        if draft is None:
            raise ValueError("method draft_model needs a draft model, and model.companions has no 'draft'")
        if draft.vocab_size != model.vocab_size:
            raise ValueError(
                f"the draft model has a vocabulary of {draft.vocab_size} tokens, the model one of {model.vocab_size}"
            )
        _, cache = feed_prompt(draft, prompt.replace(capacity=prompt.capacity + self.num_nodes + 1, rules=None))
        return DraftModelState(cache, jax.vmap(jax.random.fold_in, (0, None))(prompt.keys, DRAWS))

    def propose(self, model: LanguageModel, drafter_state: DraftModelState, text) -> tuple[DraftTree, DraftModelState]:
        """Catch up with the text, then guess."""
        draft: LanguageModel = model.companions[COMPANION]
        logits, cache = self.catch_up(draft, drafter_state.cache, text)
        if self.is_chain:
            keys = jax.vmap(jax.random.fold_in)(drafter_state.rng, text.length)
            tree, cache = self.draw_chain(draft, logits, cache, text.length, keys)
        else:
            tree, cache = self.grow_tree(draft, logits, cache, text.length)
        return tree, drafter_state.replace(cache=cache)

    def catch_up(self, draft: LanguageModel, cache: Cache, text) -> tuple[Float[Array, "B V"], Cache]:
        """Feed the tokens emitted since the last step, the root included; return the logits behind the root."""
        known = cache.length
        count = text.length - known  # 1 to max_depth + 1; 0 in rows that are done
        place = known[:, None] + jnp.arange(self.max_depth + 1)
        tokens = jnp.take_along_axis(text.tokens, jnp.minimum(place, text.tokens.shape[1] - 1), axis=1)
        logits, _, cache = draft(tokens, place, cache, logits_at=jnp.maximum(count - 1, 0)[:, None])
        return logits[:, 0], cache.commit(None, count)

    def draw_chain(
        self, draft: LanguageModel, logits: Float[Array, "B V"], cache: Cache, length: Int[Array, "B"], keys
    ) -> tuple[DraftTree, Cache]:
        """Draw token after token, each fed before the next; the draft's entries are forgotten again."""

        def draw(carry, index):
            logits, cache = carry
            token = self.sampling.draw(jax.vmap(jax.random.fold_in, (0, None))(keys, index), logits)
            logits_next, _, cache = draft(token[:, None], (length + index)[:, None], cache)
            return (logits_next[:, 0], cache.commit(None, jnp.ones_like(length))), (token, logits)

        (logits, cache), (tokens, laws) = jax.lax.scan(draw, (logits, cache), jnp.arange(self.max_depth - 1))
        last = self.sampling.draw(jax.vmap(jax.random.fold_in, (0, None))(keys, self.max_depth - 1), logits)
        tokens = jnp.concatenate([tokens, last[None]]).T
        laws = jnp.concatenate([laws, logits[None]]).swapaxes(0, 1)
        log_probs = None if self.sampling.greedy else self.sampling.log_probs(laws)
        cache = cache.commit(None, jnp.full_like(length, 1 - self.max_depth))
        return chain(tokens, jnp.full_like(length, self.max_depth), log_probs), cache

    def grow_tree(
        self, draft: LanguageModel, logits: Float[Array, "B V"], cache: Cache, length: Int[Array, "B"]
    ) -> tuple[DraftTree, Cache]:
        """Level by level; the tree so far is fed anew for each, and none of it is committed."""
        rows = length.shape[0]
        parents = jnp.asarray(self.parents(), jnp.int32)
        tokens = jnp.zeros((rows, 0), jnp.int32)
        level_logits = logits[:, None]
        for level, branches in enumerate(self.branching):
            best = jax.lax.top_k(level_logits, branches)[1].reshape(rows, -1)
            tokens = jnp.concatenate([tokens, best.astype(jnp.int32)], axis=1)
            if level == self.max_depth - 1:
                break
            size = tokens.shape[1]
            tree = self.tree(tokens, parents[:size])
            visible = ancestors(tree, level + 1)[:, 1:, 1:]
            depth = jnp.asarray(self.depths()[:size], jnp.int32)
            positions = length[:, None] + depth - 1
            wanted = jnp.broadcast_to(jnp.arange(size - best.shape[1], size), (rows, best.shape[1]))
            level_logits, _, cache = draft(tokens, positions, cache, visible, wanted)
        return self.tree(tokens, parents), cache

    def tree(self, tokens: Int[Array, "B N"], parents: Int[Array, "N"]) -> DraftTree:
        """All nodes valid."""
        everywhere = jnp.ones(tokens.shape, bool)
        return DraftTree(tokens, jnp.broadcast_to(parents, tokens.shape), everywhere, everywhere)

    def parents(self) -> list[int]:
        """Parent of each node, level after level."""
        parents, above = [], [ROOT]
        for branches in self.branching:
            here = [parent for parent in above for _ in range(branches)]
            above = list(range(len(parents), len(parents) + len(here)))
            parents += here
        return parents

    def depths(self) -> list[int]:
        """Depth of each node."""
        sizes = [math.prod(self.branching[: level + 1]) for level in range(self.max_depth)]
        return [level + 1 for level, size in enumerate(sizes) for _ in range(size)]

    def observe(self, model, drafter_state: DraftModelState, tree, verified, before, after) -> DraftModelState:
        """What was emitted is fed before the next guess."""
        return drafter_state
