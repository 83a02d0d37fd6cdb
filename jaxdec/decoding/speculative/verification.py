"""What of a draft tree the target model accepts, and the one token it adds of its own.

Let ``p_e`` be the target's processed law behind entry ``e`` (root or node). All rules walk down from the root; each
returns the accepted path and one *bonus* token chosen by the target behind its end, so that a step emits at least one.

Exact match (greedy decoding, and sampling with deterministic guesses): draw ``y_e ~ p_e`` once per entry and accept the
child of ``e`` that equals ``y_e``; where none does, ``y_e`` is the bonus. A deterministic guess is a draft law with all mass
on it; speculative sampling with siblings then *is* this rule (draw first, compare afterwards). All entries of one depth
use the same random key, that of the text position, as plain decoding does: at most one of them is on the path, so the law
is exact, and the text is the very text that plain sampling draws with that seed, up to rounding.

Speculative sampling (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318), for chains drawn from a
draft law ``q``: accept ``x_i`` with probability ``min(1, p_i(x_i) / q_i(x_i))``; at the first rejection draw the bonus from
``norm(max(p_i - q_i, 0))``, and from ``p`` behind the last node if all were accepted.

Typical acceptance (Medusa, Cai et al. 2024, arXiv 2401.10774, section 3.3.1), approximate: accept a child ``x`` of ``e`` when
``p_e(x) > min(epsilon, delta * exp(-H(p_e)))``; the longest accepted path wins, the bonus is drawn behind it.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.decoding.sampling import Sampling
from jaxdec.decoding.speculative.tree import DraftTree
from jaxdec.decoding.state import Guarantee
from jaxdec.typing import Array, Bool, Float, Int, Key


class Verified(struct.PyTreeNode):
    """Outcome of one verification.

    Attributes:
      path: nodes accepted, from the root down; valid up to ``accepted``.
      accepted: length of the path, 0 to the depth of the tree.
      bonus: the target's own token behind the path.
      next_tokens: the target's choice behind every entry (root first), for drafters that learn from it.
    """

    path: Int[Array, "B A"]
    accepted: Int[Array, "B"]
    bonus: Int[Array, "B"]
    next_tokens: Int[Array, "B T"]


@runtime_checkable
class Verification(Protocol):
    """A frozen dataclass that judges trees."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        """What the emitted text keeps of plain decoding."""
        ...

    def verify(
        self,
        sampling: Sampling,
        tree: DraftTree,
        depth: Int[Array, "B T"],
        logits: Float[Array, "B T V"],
        keys: Key[Array, "B A1"],
        max_depth: int,
    ) -> Verified:
        """Judge ``tree``; ``keys[b, d]`` is for the token that follows an entry of depth ``d``."""
        ...


@dataclasses.dataclass(frozen=True)
class ExactMatch:
    """Draw behind every entry, accept what was guessed right."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        """The text of plain decoding with the same seed, near-ties excepted; sampling included."""
        return Guarantee.TOKEN_IDENTICAL

    def verify(self, sampling, tree, depth, logits, keys, max_depth) -> Verified:
        """Exact match; see the module's docstring."""
        next_tokens = sampling.draw(jnp.take_along_axis(keys, depth, axis=1), logits)
        wanted = _at_parent(tree, next_tokens)
        path, accepted = longest_path(tree, tree.tokens == wanted, max_depth)
        end = _last_entry(path, accepted)
        return Verified(path, accepted, jnp.take_along_axis(next_tokens, end, axis=1)[:, 0], next_tokens)


@dataclasses.dataclass(frozen=True)
class SpeculativeSampling:
    """Leviathan's rejection rule, for chains whose tokens were drawn from ``tree.log_probs``."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        """Same law; with greedy decoding the same tokens."""
        return Guarantee.TOKEN_IDENTICAL if sampling.greedy else Guarantee.DISTRIBUTION

    def verify(self, sampling, tree, depth, logits, keys, max_depth) -> Verified:
        """Accept with probability ``min(1, p / q)``, else draw from the residual."""
        if sampling.greedy or tree.log_probs is None:
            return ExactMatch().verify(sampling, tree, depth, logits, keys, max_depth)
        log_p = sampling.log_probs(logits)  # [B, T, V]; entry i is the law of node i in a chain
        uniform_keys, draw_keys = (
            jax.vmap(jax.vmap(lambda key, i=i: jax.random.fold_in(key, i)))(keys) for i in (0, 1)
        )
        node_keys = jnp.take_along_axis(uniform_keys, depth[:, :-1], axis=1)
        uniform = jax.vmap(jax.vmap(jax.random.uniform))(node_keys).astype(log_p.dtype)
        token = tree.tokens[..., None]
        ratio = jnp.take_along_axis(log_p[:, :-1], token, -1) - jnp.take_along_axis(tree.log_probs, token, -1)
        path, accepted = longest_path(tree, jnp.log(uniform) < ratio[..., 0], max_depth)
        end = _last_entry(path, accepted)
        # The residual behind every entry; behind the last valid node nothing was guessed and it is p itself.
        guessed = jnp.pad(tree.valid & tree.candidate, ((0, 0), (0, 1)))[..., None]
        p, q = jnp.exp(log_p), jnp.exp(jnp.pad(tree.log_probs, ((0, 0), (0, 1), (0, 0))))
        residual = jnp.where(guessed, jnp.maximum(p - q, 0), p)
        # p == q leaves nothing, up to rounding, and is then never reached by a rejection: any law will do.
        residual = jnp.where(residual.sum(-1, keepdims=True) > 0, residual, p)
        draws = jax.vmap(jax.vmap(jax.random.categorical))(jnp.take_along_axis(draw_keys, depth, 1), jnp.log(residual))
        return Verified(path, accepted, jnp.take_along_axis(draws, end, 1)[:, 0].astype(jnp.int32), draws)


@dataclasses.dataclass(frozen=True)
class TypicalAcceptance:
    """Medusa's rule: accept what is probable enough for the entropy at hand. Changes the law of the text.

    Attributes:
      epsilon: a token this probable is always accepted.
      delta: scales the threshold ``exp(-entropy)``; the paper takes ``sqrt(epsilon)``.
    """

    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self):
        for name in ("epsilon", "delta"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")

    def guarantee(self, sampling: Sampling) -> Guarantee:
        """None at a positive temperature; greedy decoding is checked exactly."""
        return Guarantee.TOKEN_IDENTICAL if sampling.greedy else Guarantee.APPROXIMATE

    def verify(self, sampling, tree, depth, logits, keys, max_depth) -> Verified:
        """Accept by threshold; the longest accepted path wins."""
        if sampling.greedy:
            return ExactMatch().verify(sampling, tree, depth, logits, keys, max_depth)
        log_p = sampling.log_probs(logits)
        entropy = -jnp.where(jnp.isfinite(log_p), jnp.exp(log_p) * log_p, 0).sum(-1)
        threshold = jnp.minimum(self.epsilon, self.delta * jnp.exp(-entropy))
        log_p_at_parent = jnp.take_along_axis(log_p, (tree.parents + 1)[..., None], axis=1)
        p_node = jnp.exp(jnp.take_along_axis(log_p_at_parent, tree.tokens[..., None], axis=-1)[..., 0])
        path, accepted = longest_path(tree, p_node > _at_parent(tree, threshold), max_depth)
        next_tokens = sampling.draw(jnp.take_along_axis(keys, depth, axis=1), logits)
        end = _last_entry(path, accepted)
        return Verified(path, accepted, jnp.take_along_axis(next_tokens, end, axis=1)[:, 0], next_tokens)


def longest_path(
    tree: DraftTree, matches: Bool[Array, "B N"], max_depth: int
) -> tuple[Int[Array, "B A"], Int[Array, "B"]]:
    """The deepest node all of whose path matches (the first listed, if several): ``(path, accepted)``.

    A node is accepted if it is a valid candidate, matches, and its parent is accepted.
    """
    if tree.num_nodes == 0:
        rows = tree.tokens.shape[0]
        return jnp.zeros((rows, max_depth), jnp.int32), jnp.zeros(rows, jnp.int32)
    good = matches & tree.valid & tree.candidate
    from_root = tree.parents < 0
    accepted_node = good & from_root
    depth = accepted_node.astype(jnp.int32)
    for level in range(1, max_depth):
        parent_accepted = _gather(accepted_node, tree.parents) & ~from_root
        accepted_node = accepted_node | (good & parent_accepted)
        depth = jnp.where(accepted_node & (depth == 0), level + 1, depth)
    accepted = depth.max(-1)
    node = depth.argmax(-1)[:, None]
    path = []
    for _ in range(max_depth):  # from the deepest accepted node up; what lies above the root is cut off below
        path.append(node)
        node = _gather(tree.parents, jnp.maximum(node, 0))
    upward = jnp.concatenate(path, axis=1)  # [B, A]: node, parent, grandparent, ...
    downward = jnp.arange(max_depth)
    index = jnp.clip(accepted[:, None] - 1 - downward, 0, max_depth - 1)
    return jnp.maximum(jnp.take_along_axis(upward, index, axis=1), 0).astype(jnp.int32), accepted.astype(jnp.int32)


def _gather(values: Array, index: Int[Array, "B M"]) -> Array:
    return jnp.take_along_axis(values, jnp.maximum(index, 0), axis=1)


def _at_parent(tree: DraftTree, per_entry: Array) -> Array:
    """Value of each node's parent entry; entry 0 is the root."""
    return jnp.take_along_axis(per_entry, tree.parents + 1, axis=1)


def _last_entry(path: Int[Array, "B A"], accepted: Int[Array, "B"]) -> Int[Array, "B 1"]:
    """Entry at the end of the accepted path: 0 for the root alone."""
    last = jnp.take_along_axis(path, jnp.maximum(accepted - 1, 0)[:, None], axis=1)
    return jnp.where(accepted[:, None] > 0, last + 1, 0)
