"""Lookahead decoding: guesses are n-grams that a Jacobi iteration over the coming positions has produced on the side.

Fu et al. 2024, "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding" (arXiv 2402.02057). With n-grams of
``N`` tokens, a *window* of ``N - 1`` rows and ``W`` columns holds the last trajectories of a Jacobi iteration: entry ``(r, j)``
guesses the token ``1 + j + r`` places behind the root, and sees the root, row 0 up to column ``j``, and the entries above it
in its own column. One forward pass holds, as one tree,

- the window: row 0 is a chain below the root, and ``(r, j)`` hangs below ``(r - 1, j)``. These nodes are no candidates: they
  are fed for what the model says behind them;
- up to ``G`` n-grams from the pool whose first token is the root, as branches of ``N - 1`` candidates.

Behind ``(N - 2, j)`` the model's choice completes the n-gram of column ``j``: it enters the pool under its first token, and the
rows move up by one. The pool is a table of ``pool_size`` places per row of the batch (a token's place is its id modulo that;
a newcomer takes the place over), with the ``G`` most recent n-grams of each; the prompt's own n-grams are put in first.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.decoding.speculative.tree import ROOT, DraftTree
from jaxdec.typing import Array, Int

EMPTY = -1


class LookaheadState(struct.PyTreeNode):
    """Window and pool, of one row or of a batch.

    Attributes:
      window: rows of the Jacobi iteration, the oldest first.
      keys: first token of the n-grams at each place of the pool; -1 where there are none.
      ngrams: what followed that token, up to ``G`` times; -1 where there is nothing.
      cursor: which of the ``G`` places is overwritten next.
    """

    window: Int[Array, "... M W"]
    keys: Int[Array, "... P"]
    ngrams: Int[Array, "... P G M"]
    cursor: Int[Array, "... P"]


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Jacobi window and n-gram pool.

    Attributes:
      ngram_size: ``N``; the authors' ``LEVEL``.
      window_size: ``W``.
      max_guesses: ``G``, n-grams verified per step; the authors' ``GUESS_SET_SIZE``.
      pool_size: places of the pool.
    """

    ngram_size: int = 5
    window_size: int = 7
    max_guesses: int = 7
    pool_size: int = 1024

    def __post_init__(self):
        if self.ngram_size < 2:
            raise ValueError(f"ngram_size must be at least 2, got {self.ngram_size}")
        for name in ("window_size", "max_guesses", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def max_depth(self) -> int:
        """The window reaches deeper than the n-grams: its last entry lies ``W + N - 2`` below the root."""
        return self.window_size + self.ngram_size - 2

    @property
    def num_nodes(self) -> int:
        """Guesses first, so that they are among the first nodes of the tree, then the window."""
        return (self.max_guesses + self.window_size) * (self.ngram_size - 1)

    @property
    def is_chain(self) -> bool:
        """Branches."""
        return False

    @property
    def is_read_only(self) -> bool:
        """The pool and the window move with every step."""
        return False

    def init(self, model, prompt) -> LookaheadState:
        """Fill the window with tokens of the prompt, and the pool with its n-grams."""
        rows, length = prompt.tokens.shape[0], prompt.length
        size = self.ngram_size - 1
        # The authors draw them at random; taken in turn, a text's calls depend on nothing but the text.
        places = jnp.arange(size * self.window_size).reshape(size, self.window_size)
        window = jax.vmap(lambda tokens, n: jnp.take(tokens, places % n))(prompt.tokens, length)
        nothing = jnp.full((rows, self.pool_size), EMPTY, jnp.int32)
        ngrams = jnp.full((rows, self.pool_size, self.max_guesses, size), EMPTY, jnp.int32)
        state = LookaheadState(window.astype(jnp.int32), nothing, ngrams, jnp.zeros_like(nothing))
        windows = prompt.tokens.shape[1] - size  # places at which an n-gram may begin
        if windows <= 0:
            return state
        index = jnp.arange(windows)[:, None] + jnp.arange(self.ngram_size)
        found = prompt.tokens[:, index]  # [B, places, N]
        inside = jnp.arange(windows) + size < length[:, None]
        return jax.vmap(self.insert)(state, jnp.where(inside[..., None], found, EMPTY))

    def insert(self, state: LookaheadState, found: Int[Array, "K N"]) -> LookaheadState:
        """Put n-grams of one row of the batch into its pool, in order; those that begin with -1 are skipped."""

        def put(k, state):
            first, rest = found[k, 0], found[k, 1:]
            place = first % self.pool_size
            fresh = state.keys[place] != first
            kept = jnp.where(fresh, EMPTY, state.ngrams[place])
            known = (kept == rest).all(-1).any()
            cursor = jnp.where(fresh, 0, state.cursor[place])
            written = kept.at[cursor].set(rest)
            skip = (first < 0) | known
            return state.replace(
                keys=state.keys.at[place].set(jnp.where(first < 0, state.keys[place], first)),
                ngrams=state.ngrams.at[place].set(jnp.where(skip, state.ngrams[place], written)),
                cursor=state.cursor.at[place].set(
                    jnp.where(skip, state.cursor[place], (cursor + 1) % self.max_guesses)
                ),
            )

        return jax.lax.fori_loop(0, found.shape[0], put, state)

    def propose(self, model, drafter_state: LookaheadState, text) -> tuple[DraftTree, LookaheadState]:
        """Lay out the n-grams of the root and the window."""
        rows, size = text.tokens.shape[0], self.ngram_size - 1
        root = jnp.take_along_axis(text.tokens, text.length[:, None] - 1, axis=1)[:, 0]
        place = root % self.pool_size
        guesses = jax.vmap(lambda ngrams, place: ngrams[place])(drafter_state.ngrams, place)  # [B, G, N - 1]
        known = jax.vmap(lambda keys, place: keys[place])(drafter_state.keys, place) == root
        guesses = jnp.where(known[:, None, None], guesses, EMPTY)
        tokens, parents, valid = merge_branches(guesses)
        window = drafter_state.window.transpose(0, 2, 1).reshape(rows, -1)  # column by column
        base = self.max_guesses * size
        column, row = jnp.divmod(jnp.arange(self.window_size * size), size)
        parent = jnp.where(row > 0, base + column * size + row - 1, base + (column - 1) * size)
        parent = jnp.where((row == 0) & (column == 0), ROOT, parent)
        everywhere = jnp.ones(window.shape, bool)
        return DraftTree(
            tokens=jnp.concatenate([tokens, window], axis=1),
            parents=jnp.concatenate([parents, jnp.broadcast_to(parent, window.shape)], axis=1),
            valid=jnp.concatenate([valid, everywhere], axis=1),
            candidate=jnp.concatenate([valid, ~everywhere], axis=1),
        ), drafter_state

    def observe(self, model, drafter_state: LookaheadState, tree, verified, before, after) -> LookaheadState:
        """Collect an n-gram per column, and move the window up."""
        size = self.ngram_size - 1
        base = 1 + self.max_guesses * size  # entry 0 is the root
        last = base + jnp.arange(self.window_size) * size + size - 1
        fresh = verified.next_tokens[:, last]  # [B, W]
        columns = drafter_state.window.transpose(0, 2, 1)
        found = jnp.concatenate([columns, fresh[..., None]], axis=2)
        found = jnp.where(before.done[:, None, None], EMPTY, found)
        state = jax.vmap(self.insert)(drafter_state, found)
        window = jnp.concatenate([drafter_state.window[:, 1:], fresh[:, None].astype(jnp.int32)], axis=1)
        return state.replace(window=jnp.where(before.done[:, None, None], drafter_state.window, window))


def merge_branches(branches: Int[Array, "B G M"]) -> tuple[Array, Array, Array]:
    """Join branches below the root that begin alike: ``(tokens, parents, valid)``, each ``[B, G * M]``.

    Node ``(g, m)`` is left out (invalid) where an earlier branch has the same first ``m + 1`` tokens; nodes below it hang on
    that branch instead. -1 ends a branch.
    """
    rows, count, size = branches.shape
    real = jnp.cumprod(branches >= 0, axis=2).astype(bool)
    same = jnp.cumprod(branches[:, :, None] == branches[:, None], axis=3).astype(bool)  # [B, G, G', M]: equal up to m
    owner = jnp.argmax(same, axis=2)  # the first branch that begins alike
    valid = real & (owner == jnp.arange(count)[:, None])
    above = jnp.pad(owner[:, :, :-1] * size + jnp.arange(size - 1), ((0, 0), (0, 0), (1, 0)), constant_values=ROOT)
    flat = (rows, count * size)
    return jnp.maximum(branches, 0).reshape(flat), above.astype(jnp.int32).reshape(flat), valid.reshape(flat)
