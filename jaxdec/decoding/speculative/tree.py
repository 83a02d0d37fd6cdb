"""Draft trees: several guesses at the coming tokens, sharing their common beginnings, verified in one forward pass.

Node ``i`` guesses the token that follows its parent's; the root is the last chosen token, which is not part of the tree.
Nodes are listed parents first. In the forward pass the root is entry 0 and node ``i`` is entry ``i + 1``; every entry sees
the committed text, its ancestors and itself, at position ``committed length + depth`` (SpecInfer, Miao et al. 2023,
arXiv 2305.09781, calls this tree attention).
"""

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.typing import Array, Bool, Float, Int

ROOT = -1
LAW_TOLERANCE = 1e-3  # rounding of a softmax over a large vocabulary in float32


class DraftTree(struct.PyTreeNode):
    """Guesses for each row of a batch, in a fixed number of nodes.

    Attributes:
      tokens: guessed token of each node.
      parents: index of each node's parent, smaller than its own, or ``ROOT`` (-1).
      valid: padding nodes are not: no entry sees them and they are never accepted. A valid node's parent is valid.
      candidate: nodes that may be accepted; the others are fed for what the model says behind them (lookahead windows).
      log_probs: log-probability of each node's token under the law it was drawn from, over the whole vocabulary, or None
        where guesses are deterministic.
    """

    tokens: Int[Array, "B N"]
    parents: Int[Array, "B N"]
    valid: Bool[Array, "B N"]
    candidate: Bool[Array, "B N"]
    log_probs: Float[Array, "B N V"] | None = None

    @property
    def num_nodes(self) -> int:
        """Nodes per row, padding included."""
        return self.tokens.shape[1]

    def first(self, count: int) -> "DraftTree":
        """The tree of the first ``count`` nodes: parents come first, so that it is one."""
        parts = (self.tokens, self.parents, self.valid, self.candidate)
        log_probs = None if self.log_probs is None else self.log_probs[:, :count]
        return DraftTree(*(part[:, :count] for part in parts), log_probs=log_probs)


def chain(tokens: Int[Array, "B N"], count: Int[Array, "B"], log_probs: Array | None = None) -> DraftTree:
    """A tree without branches: ``count[b]`` guesses, each following the one before."""
    valid = jnp.arange(tokens.shape[1]) < count[:, None]
    parents = jnp.broadcast_to(jnp.arange(tokens.shape[1]) - 1, tokens.shape)
    return DraftTree(tokens=tokens, parents=parents, valid=valid, candidate=valid, log_probs=log_probs)


def ancestors(tree: DraftTree, max_depth: int) -> Bool[Array, "B T T"]:
    """Which entries (root first) each entry sees: itself and its ancestors; ``T`` is ``num_nodes + 1``.

    Padding entries see themselves alone, so that their softmax has something to read; nothing sees them.
    """
    size = tree.num_nodes + 1
    parent = jnp.concatenate([jnp.zeros_like(tree.parents[:, :1]), tree.parents + 1], axis=1)
    seen = jnp.broadcast_to(jnp.eye(size, dtype=bool), (*tree.tokens.shape[:1], size, size))
    real = jnp.concatenate([jnp.ones_like(tree.valid[:, :1]), tree.valid], axis=1)[:, :, None]
    for _ in range(max_depth):
        seen = seen | (jnp.take_along_axis(seen, parent[:, :, None], axis=1) & real)
    return seen


def check_tree(tree: DraftTree, vocab_size: int, max_depth: int) -> None:
    """Check a concrete tree (tests, trees given by a user).

    Raises:
      ValueError: a parent that does not precede its child, an invalid parent of a valid node, a token outside the
        vocabulary, two equal siblings, a node deeper than ``max_depth``, a law that does not sum to 1, or a token of
        probability 0 under the law it is said to be drawn from.
    """
    tokens, parents, valid = (np.asarray(x) for x in (tree.tokens, tree.parents, tree.valid))
    for row in range(tokens.shape[0]):
        depths, siblings = {}, set()
        for node in np.flatnonzero(valid[row]).tolist():
            parent, token = int(parents[row, node]), int(tokens[row, node])
            where = f"row {row}, node {node}"
            if not ROOT <= parent < node:
                raise ValueError(f"{where}: parents must be {ROOT} or a smaller index, got {parent}")
            if parent != ROOT and not valid[row, parent]:
                raise ValueError(f"{where}: its parent {parent} is a padding node")
            if not 0 <= token < vocab_size:
                raise ValueError(f"{where}: token {token} is outside the vocabulary [0, {vocab_size})")
            if tree.candidate[row, node]:
                if (parent, token) in siblings:
                    raise ValueError(f"{where}: token {token} appears twice among the children of {parent}")
                siblings.add((parent, token))
            depths[node] = depths.get(parent, 0) + 1
            if depths[node] > max_depth:
                raise ValueError(f"{where}: depth {depths[node]} exceeds max_depth {max_depth}")
            if tree.log_probs is not None:
                law = np.exp(np.asarray(tree.log_probs[row, node], np.float64))
                if not abs(law.sum() - 1) < LAW_TOLERANCE:
                    raise ValueError(f"{where}: its law must sum to 1, and sums to {law.sum():.6g}")
                if not law[token] > 0:
                    raise ValueError(f"{where}: token {token} has probability 0 under the law it was drawn from")
