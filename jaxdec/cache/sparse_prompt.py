"""The layout that whole prompts are fed into where their attention is sparse.

A rule for prompts (:mod:`jaxdec.attention.sparse`) selects from all queries and keys of a layer, so that a prompt goes through
the model in one pass, from slot 0 on. What each layer left out is counted. Decoding goes on with ``inner``, which holds every
key and value: these rules save work, not memory.
"""

from typing import Any

import jax.numpy as jnp
from flax import struct

from jaxdec.attention.sparse.gathered import sparse_attention_counted
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.attention.sparse.token_sparse import attention_among
from jaxdec.attention.sparse.zipvl import ZipVL
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int, Key


class SparsePromptCache(struct.PyTreeNode):
    """An empty contiguous cache and the rule by which the prompts' attention is computed.

    Attributes:
      inner: what is appended goes there.
      lengths: tokens of each prompt; what is appended behind them is padding.
      rng: a key per row, for rules that draw.
      rule: a :class:`PrefillRule` or :class:`ZipVL`; static.
      sparsity: per layer that has been computed, the share of the causal cells that was left out, mean over heads.
      out: attention of the layer that was observed last.
    """

    inner: ContiguousCache
    lengths: Int[Array, "B"]
    rng: Key[Array, "B"]
    rule: PrefillRule | ZipVL = struct.field(pytree_node=False)
    sparsity: tuple[Float[Array, "B"], ...] = ()
    out: Float[Array, "B T H E"] | None = None

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.inner.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.inner.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self.inner.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> None:
        """Nothing: prompts are causal.

        Raises:
          ValueError: ``visible`` is given.
        """
        if visible is not None:
            raise ValueError("visible must be None while prompts are fed by a sparse rule: draft trees come later")

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SparsePromptCache":
        """Write one layer's keys and values of the whole prompts."""
        return self.replace(inner=self.inner.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SparsePromptCache":
        """Select and attend: what is selected depends on the queries, and what was left out is counted."""
        num_tokens = queries.shape[1]
        keys, values = (side[layer][:, :, :num_tokens].swapaxes(1, 2) for side in (self.inner.keys, self.inner.values))
        queries = queries.astype(keys.dtype)
        if isinstance(self.rule, ZipVL):
            important = self.rule.important(queries, keys, self.lengths, self.rng)
            out, _ = attention_among(queries, keys, values, important)
            skipped = self.rule.sparsity(important, self.lengths)
        else:
            out, _, by_head = sparse_attention_counted(queries, keys, values, self.lengths, self.rule)
            skipped = by_head.mean(axis=1)
        return self.replace(out=out, sparsity=(*self.sparsity, skipped))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: None) -> Float[Array, "B T H E"]:
        """What :meth:`observe` has computed for the layer."""
        assert self.out is not None
        return self.out

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "SparsePromptCache":
        """Keep the prompts.

        Raises:
          ValueError: a path: prompts are kept as they are.
        """
        if path is not None:
            raise ValueError("path must be None while prompts are fed by a sparse rule: prompts are kept as they are")
        return self.replace(inner=self.inner.commit(None, count), out=None)

    def fork(self, rows: Int[Array, "R"]) -> "SparsePromptCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        pick: Any = lambda array: array[rows]  # noqa: E731
        return self.replace(
            inner=self.inner.fork(rows),
            lengths=pick(self.lengths),
            rng=pick(self.rng),
            sparsity=tuple(map(pick, self.sparsity)),
            out=None,
        )


def mean_sparsity(cache: SparsePromptCache) -> Float[Array, "B"]:
    """Share of the causal cells of each prompt that no layer computed, mean over layers."""
    return jnp.stack(cache.sparsity).mean(axis=0)
