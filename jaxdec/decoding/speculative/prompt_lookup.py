"""Prompt lookup: the last tokens have occurred before; guess that what followed them then follows again.

Saxena 2023 (github.com/apoorvumang/prompt-lookup-decoding). For n = ``max_ngram`` down to 1: take the last n tokens, find an
earlier window of the text equal to them, and propose its continuation as a chain. The reference takes the first window whose
whole continuation lies inside the text; ``prefer="latest"`` takes the most recent one, and shorter continuations count.

The search runs inside the decoding loop: all windows are compared at once.
"""

import dataclasses

import jax.numpy as jnp

from jaxdec.decoding.speculative.tree import DraftTree, chain
from jaxdec.decoding.state import DecodeState
from jaxdec.typing import Array, Int


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Guess by copying from the text itself.

    Attributes:
      num_nodes: longest continuation proposed; the reference takes 10.
      max_ngram: longest suffix looked up; the reference takes 3.
      prefer: ``"earliest"`` (the reference) or ``"latest"`` window.
    """

    num_nodes: int = 10
    max_ngram: int = 3
    prefer: str = "earliest"

    def __post_init__(self):
        for name in ("num_nodes", "max_ngram"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prefer not in ("earliest", "latest"):
            raise ValueError(f"prefer must be 'earliest' or 'latest', got {self.prefer!r}")

    @property
    def max_depth(self) -> int:
        """A chain is as deep as it is long."""
        return self.num_nodes

    @property
    def is_chain(self) -> bool:
        """One continuation, no branches."""
        return True

    @property
    def is_read_only(self) -> bool:
        """The text alone is read."""
        return True

    def init(self, model, prompt) -> None:
        """Nothing but the text is needed."""
        return None

    def propose(self, model, drafter_state: None, text: DecodeState) -> tuple[DraftTree, None]:
        """Copy the continuation of an earlier occurrence of the text's last tokens."""
        start, count = find_continuation(text.tokens, text.length, self.max_ngram, self.num_nodes, self.prefer)
        index = jnp.minimum(start[:, None] + jnp.arange(self.num_nodes), text.tokens.shape[1] - 1)
        return chain(jnp.take_along_axis(text.tokens, index, axis=1), count), None

    def observe(self, model, drafter_state: None, tree, verified, before, after) -> None:
        """The text is the only memory."""
        return None


def find_continuation(
    tokens: Int[Array, "B L"], length: Int[Array, "B"], max_ngram: int, longest: int, prefer: str
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """Where the continuation begins, and how many tokens of it lie inside the text (0 if nothing was found)."""
    place = jnp.arange(tokens.shape[1])
    equal = jnp.ones(tokens.shape, bool)  # window ending at each place agrees with the suffix in its last n tokens
    start = jnp.zeros_like(length)
    count = jnp.zeros_like(length)
    # A full continuation is demanded for the earliest match; one token suffices for the latest.
    needed = longest if prefer == "earliest" else 1
    for n in range(1, max_ngram + 1):
        suffix_token = jnp.take_along_axis(tokens, jnp.maximum(length - n, 0)[:, None], axis=1)
        shifted = jnp.pad(tokens, ((0, 0), (n - 1, 0)), constant_values=-1)[:, : tokens.shape[1]]
        equal = equal & (shifted == suffix_token) & (length[:, None] >= n)
        usable = equal & (place + needed < length[:, None])
        found = usable.any(-1)
        first, last = usable.argmax(-1), tokens.shape[1] - 1 - usable[:, ::-1].argmax(-1)
        end = first if prefer == "earliest" else last
        # A longer suffix, found later in this loop, takes precedence.
        start = jnp.where(found, end + 1, start)
        count = jnp.where(found, jnp.minimum(length - end - 1, longest), count)
    return start.astype(jnp.int32), count.astype(jnp.int32)
