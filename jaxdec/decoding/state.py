"""What goes into a decoding method and what comes out: prompts, states, statistics, results."""

import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.cache import Cache
from jaxdec.decoding.context_rules import ContextRules
from jaxdec.decoding.paging import Paging
from jaxdec.decoding.prefix_sharing import PrefixSharing
from jaxdec.typing import Array, Bool, Float, Int, Key


class Guarantee(enum.StrEnum):
    """How a method's output relates to its reference: plain decoding of the same model, or for beams a plain beam search.

    ``BITWISE``: same tokens and same logits to the last bit. ``TOKEN_IDENTICAL``: same tokens, except where the two best
    logits are closer than rounding. ``DISTRIBUTION``: same law of the sampled text. ``APPROXIMATE``: none of these.
    """

    BITWISE = "bitwise"
    TOKEN_IDENTICAL = "token_identical"
    DISTRIBUTION = "distribution"
    APPROXIMATE = "approximate"


def bucket(size: int, smallest: int = 16) -> int:
    """Round ``size`` up to a power of two, or to one and a half times one, so that few shapes are ever compiled."""
    power = smallest
    while power < size:
        if size <= power * 3 // 2:
            return power * 3 // 2
        power *= 2
    return power


class Prompt(struct.PyTreeNode):
    """A batch of right-padded prompts with their budgets.

    Attributes:
      tokens: token ids, padding (any id) behind ``length``.
      length: tokens of each prompt, at least 1.
      max_new_tokens: tokens each row may generate, at least 1.
      eos_tokens: ids that end a row; ``-1`` is never matched.
      keys: one random key per row, so that a row's draws do not depend on the batch around it.
      capacity: static number of text positions (prompt and generated) to make room for.
      sharing: what rows have in common, to be fed and kept once; None feeds and keeps every row by itself.
      paging: pages that the batch needs, if each row is to keep what it needs itself; None gives every row as much room as the
        longest needs.
      rules: by which less than all of the context is read or kept; None for everything.
    """

    tokens: Int[Array, "B P"]
    length: Int[Array, "B"]
    max_new_tokens: Int[Array, "B"]
    eos_tokens: Int[Array, "N"]
    keys: Key[Array, "B"]
    capacity: int = struct.field(pytree_node=False)
    sharing: PrefixSharing | None = None
    paging: Paging | None = struct.field(pytree_node=False, default=None)
    rules: ContextRules | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def create(
        cls,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        *,
        eos_tokens: Sequence[int] = (),
        seed: int = 0,
        vocab_size: int | None = None,
        max_positions: int | None = None,
    ) -> "Prompt":
        """Pad token lists to bucketed shapes.

        Args:
          prompts: token ids of each row.
          max_new_tokens: budget of each row, or one for all.
          eos_tokens: ids that end a row.
          seed: seed of the rows' random keys.
          vocab_size: if given, token ids are checked against it.
          max_positions: if given, prompt and budget are checked against it.

        Raises:
          ValueError: no prompt, an empty prompt, a budget below 1, a token id outside the vocabulary, or a prompt and
            budget longer than the context.
        """
        if len(prompts) == 0:
            raise ValueError("prompts is empty: give at least one prompt")
        budgets = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        if len(budgets) != len(prompts):
            raise ValueError(f"max_new_tokens has {len(budgets)} entries for {len(prompts)} prompts")
        for row, (prompt, budget) in enumerate(zip(prompts, budgets)):
            if len(prompt) == 0:
                raise ValueError(f"prompt {row} is empty: give at least one token")
            if budget < 1:
                raise ValueError(f"max_new_tokens must be at least 1, got {budget}")
            if vocab_size is not None and not all(0 <= token < vocab_size for token in prompt):
                wrong = next(token for token in prompt if not 0 <= token < vocab_size)
                raise ValueError(f"prompt {row} has token id {wrong}, outside the vocabulary [0, {vocab_size})")
            if max_positions is not None and len(prompt) + budget > max_positions:
                raise ValueError(
                    f"prompt {row} has {len(prompt)} tokens and max_new_tokens is {budget}, together "
                    f"{len(prompt) + budget}: the context of this model is {max_positions} tokens"
                )
        longest = max(map(len, prompts))
        padded = np.zeros((len(prompts), bucket(longest)), np.int32)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = prompt
        rows = jnp.arange(len(prompts))
        needed = max(len(prompt) + budget for prompt, budget in zip(prompts, budgets))
        return cls(
            tokens=jnp.asarray(padded),
            length=jnp.asarray([len(prompt) for prompt in prompts], jnp.int32),
            max_new_tokens=jnp.asarray(budgets, jnp.int32),
            eos_tokens=jnp.asarray(list(eos_tokens) or [-1], jnp.int32),
            keys=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), rows),
            capacity=bucket(max(needed, padded.shape[1]), smallest=64),
        )

    def repeat(self, times: int) -> "Prompt":
        """Repeat every row ``times`` times in place, each copy with a key of its own."""
        if times == 1:
            return self
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
        return self.replace(
            tokens=jnp.repeat(self.tokens, times, axis=0),
            length=jnp.repeat(self.length, times),
            max_new_tokens=jnp.repeat(self.max_new_tokens, times),
            keys=fold(self.keys, jnp.arange(times)).reshape(-1),
            sharing=None if self.sharing is None else self.sharing.repeated(times),
            paging=None if self.paging is None else self.paging.repeated(times),
        )


class Stats(struct.PyTreeNode):
    """Counters kept inside the loop.

    Attributes:
      target_calls: forward passes of the target model in which the row was still active, the prefill included. Plain
        decoding makes exactly one per new token.
    """

    target_calls: Int[Array, "R"]


class DecodeState(struct.PyTreeNode):
    """State of a method that extends one text per row; other methods have fields of the same names and meaning.

    Between steps the cache holds all tokens but the last (``cache.length == length - 1``): the last one, the root of
    the next step, has been chosen and not yet fed.

    Attributes:
      tokens: prompt and generated tokens, right-padded.
      length: valid tokens per row.
      prompt_length: of which the prompt.
      limit: length at which the row must stop.
      done: row has emitted an end token or reached its limit; its state no longer changes.
      log_prob: sum of the model's own log-probabilities of the generated tokens (before temperature and the like).
      eos_tokens: ids that end a row.
      rng: one key per row; the draw for text position ``i`` uses ``fold_in(rng, i)``.
      cache: committed keys and values.
      stats: counters.
    """

    tokens: Int[Array, "B L"]
    length: Int[Array, "B"]
    prompt_length: Int[Array, "B"]
    limit: Int[Array, "B"]
    done: Bool[Array, "B"]
    log_prob: Float[Array, "B"]
    eos_tokens: Int[Array, "N"]
    rng: Key[Array, "B"]
    cache: Cache
    stats: Stats


class Decoded(struct.PyTreeNode):
    """What a method returns: for each prompt, ``K`` texts, best first where the method ranks them.

    Attributes:
      tokens: generated tokens (without the prompt, with the end token if one was emitted), right-padded.
      length: valid generated tokens.
      log_prob: sum of the model's own log-probabilities of the generated tokens.
      score: what the texts are ranked by; equals ``log_prob`` for methods that do not rank.
      target_calls: forward passes that worked on this text, the prefill included.
    """

    tokens: Int[Array, "B K N"]
    length: Int[Array, "B K"]
    log_prob: Float[Array, "B K"]
    score: Float[Array, "B K"]
    target_calls: Int[Array, "B K"]
