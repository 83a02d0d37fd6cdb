"""Cache layouts of the sweep: which rule holds is data, so that one compiled program serves all.

For rules of the prompt, a text is one pass (:class:`SweptPrompt`). For rules of decoding, a prompt is fed densely and each
layer notes what every rule would keep (:class:`SweptCache`); steps then read by the rule that is chosen.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from experiments.papers.long_context.swept_rules import prompt_mask
from jaxdec.attention.dense import SlotMask
from jaxdec.attention.sparse.quest import PageSummary, Quest
from jaxdec.attention.sparse.selection import masked_attention
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int


class OfOnePurpose:
    """What the protocol of layouts has and these do not need."""

    @property
    def capacity(self) -> int:
        """Not told."""
        return 0

    @property
    def nbytes(self) -> int:
        """Not counted."""
        return 0

    def commit(self, path: Any, count: Int[Array, "B"]) -> Any:
        """Not possible.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("nothing is committed to the cache of one pass")

    def fork(self, rows: Int[Array, "R"]) -> Any:
        """Not possible.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("rows of a sweep are not copied")


class SweptPrompt(struct.PyTreeNode, OfOnePurpose):
    """The cache of one pass over whole texts whose attention goes by rule number ``which``.

    Attributes:
      length: committed entries: none.
      lengths: tokens of each text.
      which: number of the rule.
      rules: for prompts; None for dense. Static.
      keys: of the layer at work.
      values: of the layer at work.
      out: its attention.
      sparsity: per layer, the share of causal cells that was left out of each text.
    """

    length: Int[Array, "B"]
    lengths: Int[Array, "B"]
    which: Int[Array, ""]
    rules: tuple[Any, ...] = struct.field(pytree_node=False)
    keys: Any = None
    values: Any = None
    out: Any = None
    sparsity: tuple[Float[Array, "B"], ...] = ()

    def mask(self, num_new: int, visible: Any) -> None:
        """Rules make their own."""

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SweptPrompt":
        """Hold this layer's keys and values."""
        return self.replace(keys=keys, values=values)

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SweptPrompt":
        """Select and attend, text by text."""

        def of_row(part):
            q, k, v, length = part
            branches: list[Callable[..., Any]] = [
                lambda q, k, rule=rule: prompt_mask(rule, q, k, length) for rule in self.rules
            ]
            mask = jax.lax.switch(self.which, branches, q, k)
            cells = mask.sum(axis=(1, 2)).mean(dtype=jnp.float32)
            out = masked_attention(q[None], k[None], v[None], mask[None])[0]
            return out, 1 - cells / (length * (length + 1) / 2)

        out, skipped = jax.lax.map(of_row, (queries, self.keys, self.values, self.lengths))
        return self.replace(out=out, sparsity=(*self.sparsity, skipped))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: None) -> Float[Array, "B T H E"]:
        """What :meth:`observe` has computed."""
        return self.out


class SweptCache(struct.PyTreeNode, OfOnePurpose):
    """A contiguous cache, what each rule keeps of the prompts, and the rule that steps go by.

    Attributes:
      inner: all keys and values.
      prompt_length: tokens of each prompt; 0 until they are fed.
      keep: per layer and rule, tokens of the prompts that are kept.
      which: number of the rule.
      rules: None for dense, SnapKV and its kin, Quest. Static.
    """

    inner: ContiguousCache
    prompt_length: Int[Array, "B"]
    keep: tuple[Bool[Array, "R B G S"], ...]
    which: Int[Array, ""]
    rules: tuple[Any, ...] = struct.field(pytree_node=False)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.inner.length

    def mask(self, num_new: int, visible: Any) -> SlotMask:
        """Causal; what is kept comes on top."""
        return self.inner.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "SweptCache":
        """Write behind the committed entries."""
        return self.replace(inner=self.inner.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "SweptCache":
        """While prompts are fed, which all have one length: note what each rule keeps."""
        if len(self.keep) > layer:
            return self
        keys = self.inner.keys[layer].swapaxes(1, 2)
        num_tokens, num_slots = queries.shape[1], keys.shape[1]
        lengths = jnp.full(queries.shape[0], num_tokens, jnp.int32)
        everything = jnp.ones((queries.shape[0], keys.shape[2], num_slots), bool)
        kept = []
        for rule in self.rules:
            if rule is None or isinstance(rule, Quest):
                kept.append(everything)
                continue
            mask = rule.keep(queries, keys[:, :num_tokens], lengths)
            kept.append(jnp.pad(mask, ((0, 0), (0, 0), (0, num_slots - num_tokens)), constant_values=True))
        return self.replace(keep=(*self.keep, jnp.stack(kept)))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: SlotMask) -> Float[Array, "B T H E"]:
        """Dense over prompts; single tokens read what the rule allows."""
        if queries.shape[1] > 1:
            return self.inner.attend(layer, queries, mask)
        keys, values = self.inner.keys[layer], self.inner.values[layer]
        group = queries.shape[2] // keys.shape[1]
        kept = jnp.repeat(self.keep[layer][self.which], group, axis=1)[:, :, None]
        allowed = kept & mask.allowed[:, None]

        def pages(rule: Quest) -> Bool[Array, "B H T S"]:
            return rule.mask(queries, PageSummary.of(keys, rule.page_size), self.inner.length)

        branches = [
            (lambda rule=rule: pages(rule)) if isinstance(rule, Quest) else (lambda: allowed) for rule in self.rules
        ]
        read = jax.lax.switch(self.which, branches)
        return masked_attention(queries, keys.swapaxes(1, 2), values.swapaxes(1, 2), read)

    def commit(self, path: Any, count: Int[Array, "B"]) -> "SweptCache":
        """Keep new entries."""
        return self.replace(inner=self.inner.commit(path, count))
