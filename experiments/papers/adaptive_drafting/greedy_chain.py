"""ADED without a search: after every pair the heaviest successor, as a chain. What the tree is compared with."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdec.decoding.speculative.aded import Aded, AdedState, best_first
from jaxdec.decoding.speculative.tree import DraftTree
from jaxdec.decoding.speculative.trigram_table import together


@dataclasses.dataclass(frozen=True)
class GreedyChain(Aded):
    """:class:`~jaxdec.decoding.speculative.aded.Aded` that sees one successor of each pair; ``max_depth`` nodes at most."""

    def propose(self, model, drafter_state: AdedState, text) -> tuple[DraftTree, AdedState]:
        """Learn as ADED does, then follow the heaviest successors."""
        built, adaptive = self.table(model), drafter_state.adaptive
        if self.window:
            adaptive = jax.vmap(self.update)(adaptive, text.tokens, text.length, ~text.done)

        def draft(adaptive, tokens, length):
            def heaviest(pair):
                successors, weights = together(built, adaptive, pair, self.cap)
                return successors[:1], weights[:1]

            pair = jnp.take(tokens, jnp.maximum(length - 2 + jnp.arange(2), 0))
            found, parents, valid = best_first(heaviest, pair, self.num_nodes, self.max_depth)
            return found, parents, valid & (length >= 2)

        tokens, parents, valid = jax.vmap(draft)(adaptive, text.tokens, text.length)
        return DraftTree(tokens, parents, valid, valid), drafter_state.replace(adaptive=adaptive)
