"""Speculative decoding: guess several tokens, check all guesses in one forward pass, keep what the target agrees with.

Leviathan et al. 2023 (arXiv 2211.17192), Chen et al. 2023 (arXiv 2302.01318); trees: Miao et al. 2023 (arXiv 2305.09781).
One step, for every row by itself:

    propose a tree -> one forward pass over root + tree -> verify -> emit the accepted path and one bonus token -> commit

With the root in the pass, the ``e`` tokens emitted are followed by ``e`` committed entries: the root and the first ``e - 1``
emitted tokens. The last emitted token is the next root. End tokens and budgets cut the emitted tokens, not the tree.

Where several tree sizes are allowed, each step feeds that many of the tree's first nodes which promise the most tokens per
second (:mod:`jaxdec.decoding.speculative.speed_model`); a prefix of a tree is a tree, since parents come first.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.cache import Cache
from jaxdec.decoding.autoregressive import Autoregressive
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative.speed_model import AcceptanceRates, TreeSizes
from jaxdec.decoding.speculative.tree import DraftTree, ancestors
from jaxdec.decoding.speculative.verification import ExactMatch, Verification, Verified
from jaxdec.decoding.state import Decoded, DecodeState, Guarantee, Prompt, Stats
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Float, Int, Key


@runtime_checkable
class Drafter(Protocol):
    """Where guesses come from: a frozen dataclass; what it learns is a state of its own, a pytree.

    Large arrays that it needs (tables, a second model) are not its fields but lie in ``model.companions``.
    """

    @property
    def num_nodes(self) -> int:
        """Nodes per row, padding included."""
        ...

    @property
    def max_depth(self) -> int:
        """Longest path."""
        ...

    @property
    def is_chain(self) -> bool:
        """Whether node ``i`` always follows node ``i - 1``: accepted entries then lie where they belong already."""
        ...

    @property
    def is_read_only(self) -> bool:
        """Whether :meth:`propose` leaves the state as it is, and guesses without laws, so that a step may do without."""
        ...

    def init(self, model: LanguageModel, prompt: Prompt) -> Any:
        """Return the drafter's state for a batch, one entry per row.

        Raises:
          ValueError: a companion is missing or does not fit the model.
        """
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
        """Learn from the outcome: the text before and after the step. ``verified`` covers the nodes that were fed."""
        ...


EXACT_MATCH = ExactMatch()


class SpeculativeStats(Stats):
    """Counters of speculative decoding, on top of ``target_calls``.

    Attributes:
      drafted: steps in which a candidate node of each depth (1, 2, ...) was fed.
      accepted: steps in which a node of each depth was accepted; ``accepted / drafted`` is the acceptance by depth.
      fed: nodes fed beside the root, padding included; ``fed - accepted.sum()`` were wasted.
      produced_by: per position of the text buffer, its producer: 0 prompt or prefill, 1 the target (bonus), 2 a draft.
    """

    drafted: Int[Array, "R A"]
    accepted: Int[Array, "R A"]
    fed: Int[Array, "R"]
    produced_by: Int[Array, "R L"]


class LastStep(struct.PyTreeNode):
    """What the last step guessed and how it ended, for traces. Before the first step nothing is valid.

    Attributes:
      tokens: of the draft tree.
      parents: of the draft tree.
      fed: nodes that were valid, candidates, and part of the forward pass.
      path: accepted nodes, valid up to ``accepted``.
      accepted: their number.
    """

    tokens: Int[Array, "R N"]
    parents: Int[Array, "R N"]
    fed: Bool[Array, "R N"]
    path: Int[Array, "R A"]
    accepted: Int[Array, "R"]


class SpeculativeState(DecodeState):
    """:class:`DecodeState` with the drafter's own state, the rates that tree sizes are chosen by, and the last step."""

    stats: SpeculativeStats
    drafter: Any
    rates: AcceptanceRates
    last: LastStep


class Checked(NamedTuple):
    """A verified tree and the tokens it stands for: the accepted ones, the bonus, and what is kept of them."""

    verified: Verified
    block: Int[Array, "B A1"]
    log_prob: Float[Array, "B A1"]
    keep: Bool[Array, "B A1"]


@dataclasses.dataclass(frozen=True)
class Speculative:
    """A drafter and a verification rule.

    Attributes:
      drafter: where guesses come from.
      sampling: how the target chooses; greedy by default.
      verification: exact match unless the drafter draws its guesses from a law of its own.
      num_samples: texts per prompt.
      sizes: numbers of nodes that a step may feed, with their costs; by default always the whole tree.
    """

    drafter: Drafter
    sampling: Sampling = GREEDY
    verification: Verification = EXACT_MATCH
    num_samples: int = 1
    sizes: TreeSizes | None = None

    def __post_init__(self):
        if self.sizes is not None and self.sizes.nodes[-1] > self.drafter.num_nodes:
            raise ValueError(
                f"sizes asks for {self.sizes.nodes[-1]} nodes, the drafter's trees have {self.drafter.num_nodes}"
            )

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
        depth, nodes = self.drafter.max_depth, self.drafter.num_nodes
        by_depth, by_node = jnp.zeros((rows, depth), jnp.int32), jnp.zeros((rows, nodes), jnp.int32)
        stats = SpeculativeStats(
            target_calls=text.stats.target_calls,
            drafted=by_depth,
            accepted=by_depth,
            fed=by_depth[:, 0],
            produced_by=jnp.zeros((rows, positions), jnp.int32),
        )
        fields = {field.name: getattr(text, field.name) for field in dataclasses.fields(text)}
        return SpeculativeState(
            **{**fields, "stats": stats},
            drafter=self.drafter.init(model, roomy.repeat(self.num_samples)),
            rates=AcceptanceRates.create(rows, depth),
            last=LastStep(by_node, by_node - 1, by_node > 0, by_depth, by_depth[:, 0]),
        )

    def step(self, model: LanguageModel, state: SpeculativeState) -> SpeculativeState:
        """Propose, check, accept, commit."""
        tree, depth, drafter = self.propose(model, state)
        if self.sizes is None:
            size = jnp.int32(tree.num_nodes)
            checked, cache = self.check(model, state, tree, depth, tree.num_nodes, state.cache)
        else:
            choice = self.sizes.choose(state.rates, tree, depth, state.done)
            size = jnp.asarray(self.sizes.nodes, jnp.int32)[choice]
            checked, cache = self.check_one_of(model, state, tree, depth, choice)
        fed = tree.valid & (jnp.arange(tree.num_nodes) < size)
        tree = tree.replace(valid=fed)
        after = self.emit(state, tree, depth, size, checked).replace(drafter=drafter)
        after = after.replace(cache=cache)
        return after.replace(drafter=self.drafter.observe(model, drafter, tree, checked.verified, state, after))

    def propose(self, model: LanguageModel, state: SpeculativeState) -> tuple[DraftTree, Int[Array, "B N"], Any]:
        """A tree, the depths of its nodes, and the drafter's state; nothing valid where no size could pay."""

        def draft(text: SpeculativeState) -> tuple[DraftTree, Array, Any]:
            tree, drafter = self.drafter.propose(model, text.drafter, text)
            tree = tree.replace(tokens=tree.tokens.astype(jnp.int32), parents=tree.parents.astype(jnp.int32))
            depth = node_depths(tree, self.drafter.max_depth, self.drafter.is_chain)
            return tree, depth.astype(jnp.int32), drafter

        if self.sizes is None or self.sizes.nodes[0] or not self.drafter.is_read_only:
            return draft(state)

        def once(carry):
            _, waiting = carry
            tokens, length = varying(waiting, (state.tokens, state.length))
            return draft(state.replace(tokens=tokens, length=length))[:2], jnp.bool_(False)

        zeros = jnp.zeros((state.tokens.shape[0], self.drafter.num_nodes), jnp.int32)
        nothing = (DraftTree(zeros, zeros - 1, zeros > 0, zeros > 0), zeros)
        worthwhile = self.sizes.could_pay(state.rates, state.done)
        (tree, depth), _ = jax.lax.while_loop(lambda carry: carry[1], once, (nothing, worthwhile))
        return tree, depth, state.drafter

    def check_one_of(self, model: LanguageModel, state: SpeculativeState, tree: DraftTree, depth, choice):
        """:meth:`check` with the chosen size.

        A ``lax.switch`` would copy the cache into and out of its branches. A loop that runs once or not at all hands it on
        in place, so each size is such a loop.
        """
        assert self.sizes is not None
        rows, nodes, max_depth = state.tokens.shape[0], tree.num_nodes, self.drafter.max_depth
        none = jnp.zeros(rows, jnp.int32)
        per_depth, per_entry = (jnp.zeros((rows, size), jnp.int32) for size in (max_depth, nodes + 1))
        nothing = jnp.zeros((rows, max_depth + 1), jnp.int32)
        verified = Verified(per_depth, none, none, per_entry)
        checked = Checked(verified, nothing, nothing.astype(state.log_prob.dtype), nothing > 0)
        carry = (checked, state.cache, jnp.bool_(False))
        for index, num_nodes in enumerate(self.sizes.nodes):

            def once(carry, num_nodes=num_nodes):
                _, cache, ran = carry
                tokens, length, fed, fed_depth = varying(~ran, (state.tokens, state.length, tree, depth))
                text = state.replace(tokens=tokens, length=length)
                checked, cache = self.check(model, text, fed, fed_depth, num_nodes, cache)
                return checked, cache, jnp.bool_(True)

            carry = jax.lax.while_loop(lambda carry, index=index: (choice == index) & ~carry[2], once, carry)
        return carry[:2]

    def check(
        self, model: LanguageModel, state: SpeculativeState, tree: DraftTree, depth, num_nodes: int, cache: Cache
    ) -> tuple[Checked, Cache]:
        """Feed root and the first ``num_nodes`` nodes, verify them, and commit the entries of what is kept."""
        nodes, max_depth = tree.num_nodes, self.drafter.max_depth
        tree, depth = tree.first(num_nodes), jnp.pad(depth[:, :num_nodes], ((0, 0), (1, 0)))
        root = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
        entries = jnp.concatenate([root, jnp.where(tree.valid, tree.tokens, 0)], axis=1)
        positions = state.length[:, None] - 1 + depth
        visible = None if self.drafter.is_chain or not num_nodes else ancestors(tree, max_depth)
        logits, _, cache = model(entries, positions, cache, visible)
        keys = position_keys(state.rng, state.length, max_depth + 1)
        verified = self.verification.verify(self.sampling, tree, depth, logits, keys, max_depth)
        place = jnp.arange(max_depth + 1)
        if num_nodes:
            drafted = jnp.pad(jnp.take_along_axis(tree.tokens, verified.path, axis=1), ((0, 0), (0, 1)))
        else:
            drafted = jnp.zeros((root.shape[0], max_depth + 1), jnp.int32)
        block = jnp.where(place == verified.accepted[:, None], verified.bonus[:, None], drafted)
        # Entry whose logits gave block[i]: the root for i = 0, else path[i - 1]. At most num_nodes + 1 places are real.
        real = min(num_nodes, max_depth) + 1
        path = entries_of(verified)[:, :real]
        chosen = jnp.take_along_axis(logits, path[:, :, None], axis=1) if num_nodes else logits
        log_prob = jnp.take_along_axis(chosen, block[:, :real, None], axis=-1)[..., 0] - jax.nn.logsumexp(chosen, -1)
        log_prob = jnp.pad(log_prob, ((0, 0), (0, max_depth + 1 - real)))
        verified = verified.replace(next_tokens=jnp.pad(verified.next_tokens, ((0, 0), (0, nodes - num_nodes))))
        ends = (block[..., None] == state.eos_tokens).any(-1) & (place <= verified.accepted[:, None])
        before_end = jnp.cumsum(ends, axis=1) - ends == 0
        room = place < (state.limit - state.length)[:, None]
        keep = (place <= verified.accepted[:, None]) & before_end & room & ~state.done[:, None]
        in_place = self.drafter.is_chain or not num_nodes
        cache = cache.commit(None if in_place else path, keep.sum(-1).astype(jnp.int32))
        return Checked(verified, block, log_prob, keep), cache

    def emit(self, state: SpeculativeState, tree: DraftTree, depth, size, checked: Checked) -> SpeculativeState:
        """Append the accepted tokens and the bonus, up to the first end token and the budget."""
        verified, block, log_prob, keep = checked
        accepted, active = verified.accepted[:, None], ~state.done
        ends = (block[..., None] == state.eos_tokens).any(-1)
        emitted = keep.sum(-1).astype(jnp.int32)
        length = state.length + emitted
        offset = jnp.arange(state.tokens.shape[1]) - state.length[:, None]
        here = (offset >= 0) & (offset < emitted[:, None])
        new = jnp.take_along_axis(block, jnp.clip(offset, 0, self.drafter.max_depth), axis=1)
        levels = jnp.arange(1, self.drafter.max_depth + 1)
        candidates = tree.valid & tree.candidate
        tried = (candidates[..., None] & (depth[..., None] == levels)).any(1) & active[:, None]
        reached = (levels <= accepted) & active[:, None]
        stats = SpeculativeStats(
            target_calls=state.stats.target_calls + active,
            drafted=state.stats.drafted + tried,
            accepted=state.stats.accepted + reached,
            fed=state.stats.fed + jnp.where(active, size, 0),
            produced_by=jnp.where(here, 1 + (offset < accepted), state.stats.produced_by).astype(jnp.int32),
        )
        return state.replace(
            tokens=jnp.where(here, new, state.tokens),
            length=length,
            done=state.done | (ends & keep).any(-1) | (length >= state.limit),
            log_prob=state.log_prob + jnp.where(keep, log_prob, 0).sum(-1),
            stats=stats,
            rates=state.rates.update(tried, reached, active),
            last=LastStep(tree.tokens, tree.parents, candidates, verified.path, verified.accepted),
        )

    def done(self, state: SpeculativeState) -> Bool[Array, "B"]:
        """Rows that ended."""
        return state.done

    def result(self, state: SpeculativeState) -> Decoded:
        """The texts, as plain decoding returns them."""
        return self.plain.result(state)


def varying(flag: Bool[Array, ""], inputs: Any) -> Any:
    """Inputs of a loop that runs once: themselves where ``flag``, a part of its carry, is set.

    XLA computes ahead of a loop what does not change in it: here that would be the draft, and the first layer up to its keys
    for every size, in every step.
    """
    return jax.tree.map(lambda x: jnp.where(flag, x, jnp.zeros_like(x)), inputs)


def entries_of(verified: Verified) -> Int[Array, "B A1"]:
    """Entries of the forward pass along the accepted path, the root's first."""
    return jnp.pad(verified.path + 1, ((0, 0), (1, 0)))


def node_depths(tree: DraftTree, max_depth: int, is_chain: bool = False) -> Int[Array, "B N"]:
    """Depth of every node: 1 below the root, 2 below those, ..."""
    depth = jnp.ones_like(tree.parents)
    if is_chain:
        return jnp.cumsum(depth, axis=1)
    for _ in range(max_depth - 1):
        above = jnp.take_along_axis(depth, jnp.maximum(tree.parents, 0), axis=1)
        depth = jnp.where(tree.parents < 0, 1, above + 1)
    return depth


def position_keys(rng: Key[Array, "B"], length: Int[Array, "B"], count: int) -> Key[Array, "B A1"]:
    """Keys of text positions ``length, length + 1, ...``: those that plain decoding uses for them."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
    return fold(rng, length[:, None] + jnp.arange(count))
