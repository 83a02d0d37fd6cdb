"""The language-model contract that every decoding method sees: append, then commit.

A model is a pure function. One forward pass *appends* the keys and values of ``T`` new tokens to a cache, in the slots
behind the committed ones, and returns logits; it commits nothing. The caller decides which new tokens stay
(:meth:`jaxdec.cache.Cache.commit`). Rollback is not committing. Prefill commits ``T`` tokens, a greedy step commits one,
a verified draft tree commits its accepted path.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import struct

from jaxdec.cache import Cache
from jaxdec.typing import Array, Bool, Float, Int, PyTree


class Output(NamedTuple):
    """What one forward pass returns.

    Attributes:
      logits: unnormalised log-probabilities of the next token, at least float32; ``N`` is ``T``, or the width of
        ``logits_at`` where that was given.
      hidden: last hidden states after the final norm, for draft heads and probes.
      cache: the cache with the new entries appended and not committed.
    """

    logits: Float[Array, "B N V"]
    hidden: Float[Array, "B T D"]
    cache: Cache


@runtime_checkable
class LanguageModule(Protocol):
    """What a Flax module must offer to be decoded (see ``jaxdec.models.transformer``)."""

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        ...

    def apply(self, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
        """Flax's ``Module.apply``."""
        ...

    def init_cache(self, batch_size: int, capacity: int) -> Cache:
        """Return an empty cache."""
        ...


class LanguageModel(struct.PyTreeNode):
    """A module bound to its parameters: a pytree that goes through ``jit`` as one argument.

    Attributes:
      module: the (hashable) Flax module; static under ``jit``.
      params: its parameters.
      companions: arrays that a decoding method needs beside the model, by name: a second model, a table, a text collection.
        They travel with the model, since a method is static under ``jit`` and holds none.
    """

    module: LanguageModule = struct.field(pytree_node=False)
    params: PyTree
    companions: Mapping[str, PyTree] = struct.field(default_factory=dict)

    def accompanied(self, **companions: PyTree) -> "LanguageModel":
        """The same model with further companions."""
        return self.replace(companions={**self.companions, **companions})

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.module.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest context the model accepts, in tokens."""
        return self.module.max_positions

    def init_cache(self, batch_size: int, capacity: int) -> Cache:
        """Return an empty cache for ``batch_size`` rows of at most ``capacity`` tokens."""
        return self.module.init_cache(batch_size, capacity)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        visible: Bool[Array, "B T T"] | None = None,
        logits_at: Int[Array, "B N"] | None = None,
    ) -> Output:
        """Run one forward pass over ``T`` new tokens per row.

        Args:
          tokens: token ids.
          positions: absolute position of each token (for a draft tree: committed length + depth).
          cache: committed entries of every row; ``cache.length + T`` must not exceed its capacity.
          visible: which new tokens each new token may attend to besides all committed ones; causal when None.
          logits_at: indices into ``T`` at which logits are wanted; all when None. Prefill asks for one: the output head
            is a fifth of a small model's FLOPs.
        """
        return Output(*self.module.apply({"params": self.params}, tokens, positions, cache, visible, logits_at))

    def token_embeddings(self) -> Float[Array, "V D"]:
        """Return the table of input embeddings, one row per token.

        Raises:
          ValueError: the module has none (it offers no ``token_embeddings(params)``).
        """
        table = getattr(self.module, "token_embeddings", None)
        if table is None:
            raise ValueError(f"module {type(self.module).__name__} has no token embeddings")
        return table(self.params)

    def num_params(self) -> int:
        """Number of scalar parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def nbytes(self) -> int:
        """Bytes of all parameters: what one decode step has to read at least."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))
