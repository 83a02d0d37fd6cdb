"""Monte-Carlo tree search in a tri-gram table, as ADED drafts by (Liu et al. 2025, arXiv 2407.12021, and the authors' code).

A simulation descends from the root to the child of largest

    PUCT = W / N + (c1 + ln((N_parent + c2 + 1) / c2)) P sqrt(N_parent) / (1 + N)

(unvisited children first; ``P`` is the weight of the edge) until it meets a node without children or ``max_depth - 1`` tokens;
there it makes all successors children and steps into the heaviest (the authors: into the one their hash map lists last),
goes on at random in proportion to the weights up to ``max_depth - 1`` tokens, and adds ``R = 1 + sum of the weights passed`` to
``W`` and 1 to ``N`` of every node on the way. The drafts are the 24 most visited nodes, each with its heaviest successor
appended.

``reward="published"`` is what the authors' code computes: the weight of the *first* token of the next pair, which is the last
token said again; it is almost always absent from the table, so that ``R`` is almost always 1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.decoding.speculative.tree import ROOT
from jaxdec.typing import Array, Bool, Float, Int, Key

REWARDS = ("intended", "published")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the search.

    Attributes:
      simulations: descents per step.
      c1: weight of exploration; 32 in the authors' code, 1.814 until a late change of it.
      c2: how slowly exploration grows.
      reward: ``"intended"`` or ``"published"``.
      num_drafts: most visited nodes kept before their heaviest successors are appended.
    """

    simulations: int = 150
    c1: float = 32.0
    c2: float = 8.0
    reward: str = "intended"
    num_drafts: int = 24

    def __post_init__(self):
        for name in ("simulations", "num_drafts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.c1 >= 0 and self.c2 > 0):
            raise ValueError(f"c1 must be >= 0 and c2 positive, got {self.c1} and {self.c2}")
        if self.reward not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}, got {self.reward!r}")


class Nodes(struct.PyTreeNode):
    """The search tree of one row; node 0 is the root. Children of a node lie side by side, heaviest first.

    Attributes:
      token: of each node; -1 where there is none.
      parent: of each node.
      pair: the last two tokens on the way to it.
      weight: of the edge that leads to it.
      depth: 0 at the root.
      children: index of its first child, or -1 if it has not been expanded or has none.
      visits: ``N``.
      value: ``W``.
      used: nodes in use.
    """

    token: Int[Array, "M"]
    parent: Int[Array, "M"]
    pair: Int[Array, "M 2"]
    weight: Float[Array, "M"]
    depth: Int[Array, "M"]
    children: Int[Array, "M"]
    visits: Int[Array, "M"]
    value: Float[Array, "M"]
    used: Int[Array, ""]


def simulate(lookup: Any, pair: Int[Array, "2"], key: Key[Array, ""], depth: int, settings: Settings) -> Nodes:
    """Run all simulations. ``lookup(pair) -> (tokens[S], weights[S])``, heaviest first, -1 and 0 where there are none."""
    width = jax.eval_shape(lambda: lookup(jnp.zeros(2, jnp.int32)))[0].shape[0]
    size = 1 + width * settings.simulations
    nothing = jnp.full(size, -1, jnp.int32)
    zeros = jnp.zeros(size, jnp.float32)
    nodes = Nodes(
        token=nothing,
        parent=nothing,
        pair=jnp.zeros((size, 2), jnp.int32).at[0].set(pair),
        weight=zeros,
        depth=jnp.zeros(size, jnp.int32),
        children=nothing,
        visits=jnp.zeros(size, jnp.int32),
        value=zeros,
        used=jnp.int32(1),
    )
    block = jnp.arange(width, dtype=jnp.int32)

    def reward(before, after_token, weight):
        """Of going from pair ``before`` to ``after_token`` over an edge of ``weight``."""
        if settings.reward == "intended":
            return weight
        tokens, weights = lookup(before)
        return jnp.where(tokens == before[1], weights, 0).sum()

    def descend(_, state):
        nodes, node, path, total, step = state
        children = nodes.children[node] + block
        can = (nodes.children[node] >= 0) & (nodes.depth[node] < depth)
        visits, parent_visits = nodes.visits[children], nodes.visits[node].astype(jnp.float32)
        mean = nodes.value[children] / jnp.maximum(visits, 1)
        explore = settings.c1 + jnp.log((parent_visits + settings.c2 + 1) / settings.c2)
        score = mean + explore * nodes.weight[children] * jnp.sqrt(parent_visits) / (1 + visits)
        score = jnp.where(visits == 0, jnp.inf, score)
        score = jnp.where((nodes.token[children] >= 0) & (children < nodes.used), score, -jnp.inf)
        child = children[jnp.argmax(score)]
        total = total + jnp.where(can, reward(nodes.pair[node], nodes.token[child], nodes.weight[child]), 0)
        path = jnp.where(can, path.at[step + 1].set(child), path)
        return nodes, jnp.where(can, child, node), path, total, step + can

    def expand(nodes, node):
        tokens, weights = lookup(nodes.pair[node])
        do = (nodes.children[node] < 0) & (nodes.depth[node] < depth) & (tokens[0] >= 0)
        at = jnp.where(do, nodes.used, jnp.int32(size - width))  # a block that is not used is rewritten as it was

        def put(array, values):
            old = jax.lax.dynamic_slice_in_dim(array, at, width)
            return jax.lax.dynamic_update_slice_in_dim(array, jnp.where(_like(do, old), values, old), at, 0)

        pairs = jnp.stack([jnp.broadcast_to(nodes.pair[node][1], tokens.shape), tokens], axis=1)
        nodes = nodes.replace(
            token=put(nodes.token, tokens),
            parent=put(nodes.parent, jnp.broadcast_to(node, tokens.shape)),
            pair=put(nodes.pair, pairs),
            weight=put(nodes.weight, weights),
            depth=put(nodes.depth, jnp.broadcast_to(nodes.depth[node] + 1, tokens.shape)),
            children=nodes.children.at[node].set(jnp.where(do, at, nodes.children[node])),
            used=nodes.used + jnp.where(do, width, 0),
        )
        return nodes, do, jnp.where(do, at, node)

    def simulation(index, carry):
        nodes = carry
        path = jnp.full(depth + 1, -1, jnp.int32).at[0].set(0)
        state = (nodes, jnp.int32(0), path, jnp.float32(0), jnp.int32(0))
        for level in range(depth):
            state = descend(level, state)
        _, node, path, total, step = state
        before = nodes.pair[node]
        nodes, grown, child = expand(nodes, node)
        total = total + jnp.where(grown, reward(before, nodes.token[child], nodes.weight[child]), 0)
        path = jnp.where(grown, path.at[step + 1].set(child), path)
        now, length = nodes.pair[child], nodes.depth[child]
        for level in range(depth):  # the roll-out
            tokens, weights = lookup(now)
            draw = jax.random.categorical(jax.random.fold_in(key, index * depth + level), jnp.log(weights))
            go = (length < depth) & (tokens[0] >= 0)
            total = total + jnp.where(go, reward(now, tokens[draw], weights[draw]), 0)
            now = jnp.where(go, jnp.stack([now[1], tokens[draw]]), now)
            length = length + go
        here = jnp.where(path >= 0, path, size)  # out of range: dropped
        return nodes.replace(
            visits=nodes.visits.at[here].add(1, mode="drop"),
            value=nodes.value.at[here].add(1 + total, mode="drop"),
        )

    return jax.lax.fori_loop(0, settings.simulations, simulation, nodes)


def search(
    lookup: Any, pair: Int[Array, "2"], key: Key[Array, ""], num_nodes: int, max_depth: int, settings: Settings
) -> tuple[Int[Array, "N"], Int[Array, "N"], Bool[Array, "N"]]:
    """Draft nodes of one row: ``(tokens, parents, valid)``, the most visited first, then the successors appended to them."""
    nodes = simulate(lookup, pair, key, max_depth - 1, settings)
    count = settings.num_drafts
    # A parent has at least its children's visits and a lower index: the most visited nodes form a tree.
    visits = jnp.where(nodes.token >= 0, nodes.visits, 0).at[0].set(0)
    best, chosen = jax.lax.top_k(visits, count)
    valid = best > 0
    place = jnp.full(nodes.token.shape[0], ROOT, jnp.int32).at[chosen].set(jnp.arange(count, dtype=jnp.int32))
    token, parent = nodes.token[chosen], place.at[0].set(ROOT)[nodes.parent[chosen]]
    tokens, _ = jax.vmap(lookup)(nodes.pair[chosen])
    extra = tokens[:, 0]
    known = ((parent[None] == jnp.arange(count)[:, None]) & (token[None] == extra[:, None]) & valid[None]).any(1)
    extra_valid = valid & (extra >= 0) & ~known
    token, parent = jnp.concatenate([token, extra]), jnp.concatenate([parent, jnp.arange(count, dtype=jnp.int32)])
    valid = jnp.concatenate([valid, extra_valid])
    # The valid ones move up. Parents are among the most visited, which are in front already and stay where they are.
    front = jnp.argsort(~valid, stable=True)[:num_nodes]
    short = max(0, num_nodes - 2 * count)
    token, parent, valid = (jnp.pad(x[front], (0, short)) for x in (token, parent, valid))
    return jnp.where(valid, token, 0).astype(jnp.int32), jnp.where(valid, parent, ROOT), valid


def _like(flag: Bool[Array, ""], array: Array) -> Array:
    return jnp.broadcast_to(flag, array.shape)
