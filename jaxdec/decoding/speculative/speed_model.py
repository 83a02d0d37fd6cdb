"""Which tree size pays: expected tokens of a step over what the step costs on the machine at hand.

With ``v(n)`` the time of a forward pass over the root and ``n`` nodes relative to one token, and ``a_d`` the chance that a node
of depth ``d`` is accepted if one is fed and the depth before was accepted, feeding the first ``n`` nodes is worth (Leviathan et
al. 2023, arXiv 2211.17192, theorem 3.8, with measured costs and unequal chances)

    (1 + sum over depths d among the first n nodes of a_1 a_2 .. a_d) / v(n)

tokens per time of a plain step. ``a_d`` is a running average per row, drawn to the average over all depths where little is
known, and forgotten towards a prior, so that a size that was given up is tried again from time to time. ``v`` is measured once
per machine and model (:mod:`jaxdec.decoding.speculative.step_cost`).
"""

import dataclasses

import jax.numpy as jnp
from flax import struct

from jaxdec.decoding.speculative.tree import DraftTree
from jaxdec.typing import Array, Bool, Float, Int

PRIOR_CHANCE = 0.5  # of acceptance, given that the depth before was accepted
PRIOR_WEIGHT = 1.0  # of that prior against the average over all depths, in tests
POOL_WEIGHT = 0.5  # of that average against a single depth, in tests
MEMORY = 0.98  # weight of a step's outcome one step later: what failed is tried again after about eighty steps


class AcceptanceRates(struct.PyTreeNode):
    """Running averages of acceptance by depth, per row.

    Attributes:
      tested: weight of the steps in which a node of the depth was fed and the depth before was accepted.
      passed: weight of those in which it was accepted.
    """

    tested: Float[Array, "B A"]
    passed: Float[Array, "B A"]

    @classmethod
    def create(cls, rows: int, max_depth: int) -> "AcceptanceRates":
        """Nothing known yet."""
        nothing = jnp.zeros((rows, max_depth), jnp.float32)
        return cls(nothing, nothing)

    def update(
        self, fed: Bool[Array, "B A"], accepted: Bool[Array, "B A"], active: Bool[Array, "B"]
    ) -> "AcceptanceRates":
        """Add one step's outcome, by depth, in the rows that are active."""
        row = active[:, None]
        tested = fed & jnp.pad(accepted[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        return AcceptanceRates(
            tested=jnp.where(row, MEMORY * self.tested + tested, self.tested).astype(jnp.float32),
            passed=jnp.where(row, MEMORY * self.passed + accepted, self.passed).astype(jnp.float32),
        )

    def estimate(self) -> Float[Array, "B A"]:
        """Chance that each depth is reached if nodes of it, and of all before it, are fed."""
        passed, tested = (x.sum(1, keepdims=True) for x in (self.passed, self.tested))
        pool = (passed + PRIOR_WEIGHT * PRIOR_CHANCE) / (tested + PRIOR_WEIGHT)
        return jnp.cumprod((self.passed + POOL_WEIGHT * pool) / (self.tested + POOL_WEIGHT), axis=1)


@dataclasses.dataclass(frozen=True)
class TreeSizes:
    """Numbers of nodes that a step may feed.

    Attributes:
      nodes: increasing; 0 is a plain step.
      costs: ``v`` of each.
    """

    nodes: tuple[int, ...]
    costs: tuple[float, ...]

    def __post_init__(self):
        if not self.nodes or self.nodes[0] < 0 or any(a >= b for a, b in zip(self.nodes, self.nodes[1:])):
            raise ValueError(f"nodes must be an increasing list of numbers >= 0, got {self.nodes}")
        if len(self.costs) != len(self.nodes) or not all(cost > 0 for cost in self.costs):
            raise ValueError(f"costs must be one positive number for each of nodes {self.nodes}, got {self.costs}")

    def choose(
        self, rates: AcceptanceRates, tree: DraftTree, depth: Int[Array, "B N"], done: Bool[Array, "B"]
    ) -> Int[Array, ""]:
        """Index of the size that promises the most tokens per time for the rows that are not done, all together.

        Nodes that are not candidates or not valid promise nothing.
        """
        chance = rates.estimate()
        levels = jnp.arange(1, chance.shape[1] + 1)
        candidates = tree.valid & tree.candidate & ~done[:, None]
        # The first node of a depth is what brings its chance; later ones share it.
        first = jnp.where(
            candidates[..., None] & (depth[..., None] == levels), jnp.arange(tree.num_nodes)[:, None], 1 << 30
        )
        first = first.min(axis=1, initial=1 << 30)  # [B, A]
        gain = jnp.where(first[..., None] < jnp.asarray(self.nodes), chance[..., None], 0).sum(axis=(0, 1))
        active = jnp.maximum((~done).sum(), 1)
        return jnp.argmax((1 + gain / active) / jnp.asarray(self.costs, jnp.float32)).astype(jnp.int32)

    def could_pay(self, rates: AcceptanceRates, done: Bool[Array, "B"]) -> Bool[Array, ""]:
        """Whether :meth:`choose` could take any other than the first size, with the best tree there is: a chain."""
        chance = rates.estimate()
        most = jnp.cumsum(jnp.pad(jnp.where(done[:, None], 0, chance), ((0, 0), (1, 0))), axis=1).sum(axis=0)
        depths = jnp.minimum(jnp.asarray(self.nodes), chance.shape[1])
        value = (1 + most[depths] / jnp.maximum((~done).sum(), 1)) / jnp.asarray(self.costs, jnp.float32)
        return (value[1:] > 1 / self.costs[0]).any()
