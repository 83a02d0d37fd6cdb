"""Retrieval layout: all keys and values stay, and each forward pass reads of them the blocks that its queries ask for.

ActQKV (Xiao et al. 2025, arXiv 2502.13542; :mod:`jaxdec.attention.sparse.actqkv`) with the block memory of InfLLM (Xiao et al.
2024, arXiv 2402.04617). One pass over at most ``window`` tokens is one window: :meth:`RetrievalCache.observe` makes the probe
query of a layer, scores the blocks, allots the layer its part of the budget and chooses; :meth:`RetrievalCache.attend` reads
the sinks, the chosen blocks and all that is in no block, exactly.

- Keys are kept rotated at their own positions and are read so: with room for all blocks this is dense attention. (The authors'
  code rotates nothing that left the local window, and its queries by one angle.) Representatives and probes are made of keys
  and queries that are turned back, for which the cache is told how the model rotates.
- Everything that stays behind a pass is settled by :meth:`RetrievalCache.commit`, from the tokens that are kept: statistics,
  attention received, blocks. Drafts that are not kept leave no trace in them. The density of a pass is that of all its
  tokens, and is noted if any was kept.
- No block is offloaded: keys and values lie in one array per layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.attention.sparse.actqkv import ActQKV, QueryStatistics, cosine_scores, update
from jaxdec.attention.sparse.retrieved import (
    near_keys,
    near_mask,
    near_slots,
    reach,
    received,
    retrieved_attention,
)
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.tiled_attention.xla import over_tiles

Rotation = Callable[[Int[Array, "B T"]], tuple[Array, Array]]
"""Cosine and sine ``[B, T, 1, E / 2]`` of positions, which may be negative. Static, so it must be hashable and comparable."""

ALL = jnp.iinfo(jnp.int32).max


class Window(struct.PyTreeNode):
    """What one pass asked of one layer, until it is committed.

    Attributes:
      queries: rotated, as they came.
      chosen: blocks by falling score; the first ones are read.
    """

    queries: Float[Array, "B T H E"]
    chosen: Int[Array, "B K"]


class RetrievalCache(struct.PyTreeNode):
    """Keys and values of all tokens, and what says which of them a pass reads.

    Attributes:
      held: all keys and values.
      representatives: per layer, of every block, all key/value heads side by side, float32; those that are not whole yet may
        hold anything.
      received: per layer, attention that each token received within its local window, float32.
      statistics: per layer, of committed queries.
      windows: per layer, the pass that is going on; None before :meth:`observe`.
      densities: information densities of the newest windows that had two blocks or more.
      num_windows: how many such windows were committed.
      density: of the last pass.
      blocks: blocks that each layer read in the last pass.
      remaining: blocks of the last pass's budget that are left for layers that have not had their part.
      tokens_read: tokens that each layer read in the last pass, the new ones included.
      tokens_read_in_all: the same, summed over passes of which something was committed.
      expected: how many of the next pass's tokens are not padding.
      rule: sizes and choice.
      rotation: how the model rotates queries and keys; None if it does not.
    """

    held: ContiguousCache
    representatives: tuple[Float[Array, "B N D"], ...]
    received: tuple[Float[Array, "B G S"], ...]
    statistics: tuple[QueryStatistics, ...]
    windows: tuple[Window | None, ...]
    densities: Float[Array, "B L W"]
    num_windows: Int[Array, "B"]
    density: Float[Array, "B L"]
    blocks: Int[Array, "B L"]
    remaining: Int[Array, "B"]
    tokens_read: Int[Array, "B L"]
    tokens_read_in_all: Int[Array, "B L"]
    expected: Int[Array, "B"]
    rule: ActQKV = struct.field(pytree_node=False)
    rotation: Rotation | None = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls,
        *,
        num_layers: int,
        batch_size: int,
        capacity: int,
        num_kv_heads: int,
        num_heads: int,
        head_dim: int,
        dtype: Any,
        rule: ActQKV,
        rotation: Rotation | None,
    ) -> "RetrievalCache":
        """Return an empty cache.

        Args:
          num_layers: layers, over which budgets are allotted.
          batch_size: rows.
          capacity: tokens per row, drafts and padding included.
          num_kv_heads: key/value heads.
          num_heads: query heads.
          head_dim: width of one head.
          dtype: of keys and values.
          rule: static.
          rotation: see :data:`Rotation`; such as :class:`jaxdec.models.rope.Rotation`.

        Raises:
          ValueError: a size below 1, or query heads that the key/value heads do not divide.
        """
        sizes = {"num_kv_heads": num_kv_heads, "num_heads": num_heads, "head_dim": head_dim}
        for name, size in {"capacity": capacity, **sizes}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads must be a multiple of num_kv_heads, {num_kv_heads}; got {num_heads}")
        # What lies near a row's end is cut out in one piece, up to a block longer than what is in use.
        room = max(capacity + rule.block_size, rule.sinks + reach(rule, rule.window))
        held = ContiguousCache.create(
            num_layers=num_layers,
            batch_size=batch_size,
            capacity=room,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dtype=dtype,
        )
        num_blocks = max(capacity - rule.sinks - rule.local, 0) // rule.block_size
        written = -(-rule.window // rule.block_size)  # at a time
        per_layer, counters = range(num_layers), jnp.zeros((batch_size, num_layers), jnp.int32)
        vectors = jnp.zeros((batch_size, num_blocks + written, num_kv_heads * head_dim), jnp.float32)
        return cls(
            held=held,
            representatives=tuple(jnp.zeros_like(vectors) for _ in per_layer),
            received=tuple(jnp.zeros((batch_size, num_kv_heads, held.capacity), jnp.float32) for _ in per_layer),
            statistics=tuple(QueryStatistics.create(batch_size, num_heads * head_dim) for _ in per_layer),
            windows=(None,) * num_layers,
            densities=jnp.zeros((batch_size, num_layers, rule.history), jnp.float32),
            num_windows=jnp.zeros(batch_size, jnp.int32),
            density=jnp.ones((batch_size, num_layers), jnp.float32),
            blocks=counters,
            remaining=jnp.zeros(batch_size, jnp.int32),
            tokens_read=jnp.zeros_like(counters),
            tokens_read_in_all=jnp.zeros_like(counters),
            expected=jnp.full(batch_size, ALL, jnp.int32),
            rule=rule,
            rotation=rotation,
        )

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.held.length

    @property
    def capacity(self) -> int:
        """Tokens per row."""
        return self.held.capacity - self.rule.block_size

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, of representatives and of what tokens received."""
        return self.held.nbytes + sum(array.nbytes for array in (*self.representatives, *self.received))

    def expect(self, count: Int[Array, "B"]) -> "RetrievalCache":
        """Say that the next pass has ``count[b]`` tokens in row ``b`` and padding behind them, which no probe is made of.

        Without this, padding takes part in the probe of its own pass, and so in the density that is noted of it, and in nothing
        else that stays. :meth:`commit` takes it back.
        """
        return self.replace(expected=count.astype(jnp.int32))

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Bool[Array, "B T W"]:
        """Which of the slots in no block each new token may read. All may read all chosen blocks.

        Raises:
          ValueError: more new tokens than ``rule.window``.
        """
        if num_new > self.rule.window:
            raise ValueError(f"num_new must be at most window, {self.rule.window}; got {num_new}")
        return near_mask(self.rule, self.length, num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "RetrievalCache":
        """Write one layer's new keys and values behind the committed entries."""
        return self.replace(held=self.held.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "RetrievalCache":
        """Choose the blocks that this pass reads in one layer. Layers come in their order, since they share a budget."""
        rule, num_new = self.rule, queries.shape[1]
        num_blocks, scores = rule.num_blocks(self.length), self.scores(layer, queries)
        density = rule.density(scores, num_blocks)
        remaining = self.remaining if layer else jnp.full_like(self.remaining, rule.top_blocks * len(self.windows))
        known = self.num_windows >= rule.min_windows
        count = rule.allot(layer, remaining, self._means(layer, density), known, num_blocks)
        _, chosen = jax.lax.top_k(scores, max(min(rule.most, scores.shape[1]), 1))
        window = Window(queries, chosen.astype(jnp.int32))
        near = self.length - num_blocks * rule.block_size + num_new
        return self.replace(
            windows=(*self.windows[:layer], window, *self.windows[layer + 1 :]),
            density=self.density.at[:, layer].set(density),
            blocks=self.blocks.at[:, layer].set(count),
            remaining=remaining - count,
            tokens_read=self.tokens_read.at[:, layer].set(near + count * rule.block_size),
        )

    def scores(self, layer: int, queries: Float[Array, "B T H E"]) -> Float[Array, "B N"]:
        """Score of every block for a pass with these queries; ``-inf`` where there is no block.

        Tokens are taken to be at their slots. For a draft tree that is true of its first chain only, and the others' queries
        are turned back a little too far.
        """
        offset = jnp.arange(queries.shape[1])
        asking, valid = self._asking(queries, self.length[:, None] + offset), offset < self.expected[:, None]
        probe = self.rule.probe_query(self.statistics[layer], asking, valid)
        return cosine_scores(self.representatives[layer], probe, self.rule.num_blocks(self.length))

    def attend(
        self, layer: int, queries: Float[Array, "B T H E"], mask: Bool[Array, "B T W"]
    ) -> Float[Array, "B T H E"]:
        """Attention to what was chosen and to all that is in no block."""
        return self.attention_state(layer, queries, mask)[0]

    def attention_state(
        self, layer: int, queries: Float[Array, "B T H E"], mask: Bool[Array, "B T W"]
    ) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
        """Attention and its log-sum-exp.

        Raises:
          ValueError: :meth:`observe` has not been called for this layer.
        """
        keys, values = self.held.keys[layer], self.held.values[layer]
        chosen, count = self._window(layer).chosen, self.blocks[:, layer]
        return retrieved_attention(queries, keys, values, self.length, chosen, count, mask, self.rule)

    def readable(self, layer: int, num_new: int, visible: Bool[Array, "B T T"] | None = None) -> Bool[Array, "B T S"]:
        """Reference: which slots each new token reads, as a mask over all of them."""
        size, sinks = self.rule.block_size, self.rule.sinks
        chosen = self._window(layer).chosen
        read = jnp.arange(chosen.shape[1]) < self.blocks[:, layer, None]
        slot = jnp.arange(self.held.capacity)
        block = jnp.where(slot < sinks, -1, (slot - sinks) // size)
        of_blocks = ((block == chosen[..., None]) & read[..., None]).any(axis=1)
        in_none = (slot < sinks) | (block >= self.rule.num_blocks(self.length)[:, None])
        return (of_blocks | in_none)[:, None] & self.held.mask(num_new, visible).allowed

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "RetrievalCache":
        """Move the entries of ``path`` behind ``length``, advance it, and take what is kept into statistics and blocks.

        What was forgotten by a negative count stays in the statistics, and in what older tokens received of it.
        """
        held = self.held.commit(path, count)
        cleared = self.replace(
            held=held,
            windows=(None,) * len(self.windows),
            expected=jnp.full_like(self.expected, ALL),
        )
        if all(window is None for window in self.windows):
            return cleared
        rule, length = self.rule, self.length
        num_new = self._window(0).queries.shape[1] if path is None else path.shape[1]
        near = [near_keys(rule, keys, length, num_new) for keys in held.keys]
        first = near_slots(rule, length, num_new)[:, rule.sinks]
        old = [_cut(side, first, reach(rule, num_new), axis=1) for side in self.received]
        queries = [self._window(layer).queries for layer in range(len(near))]
        parts = jax.tree.map(lambda *layers: jnp.stack(layers), *zip(self.statistics, queries, near, old))
        # One program for all layers: what the model computes between them is done.
        found = over_tiles(lambda part: self._settled(part, path, count), parts)
        statistics, share, means = zip(*(jax.tree.map(lambda side, at=at: side[at], found) for at in range(len(near))))
        kept = count > 0
        several = kept & (rule.num_blocks(length) > 1)
        newest = jnp.concatenate([self.density[..., None], self.densities[..., :-1]], axis=2)
        made = rule.num_blocks(length)
        return cleared.replace(
            statistics=statistics,
            received=tuple(_put(side, part, first, axis=1) for side, part in zip(self.received, share)),
            representatives=tuple(_put(side, part, made, axis=0) for side, part in zip(self.representatives, means)),
            densities=jnp.where(several[:, None, None], newest, self.densities),
            num_windows=self.num_windows + several,
            tokens_read_in_all=self.tokens_read_in_all + jnp.where(kept[:, None], self.tokens_read, 0),
        )

    def fork(self, rows: Int[Array, "R"]) -> "RetrievalCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)

    def _window(self, layer: int) -> Window:
        window = self.windows[layer]
        if window is None:
            raise ValueError(f"observe must be called before attend; it was not for layer {layer}")
        return window

    def _means(self, layer: int, density: Float[Array, "B"]) -> Float[Array, "B L"]:
        """Mean densities of the newest windows, this one's included for the layer that is choosing."""
        windows = jnp.minimum(self.num_windows, self.rule.history)
        means = self.densities.sum(axis=2) / jnp.maximum(windows, 1)[:, None]
        mine = density + self.densities[:, layer, :-1].sum(axis=1)
        return means.at[:, layer].set(mine / jnp.minimum(windows + 1, self.rule.history))

    def _turned(self, x: Float[Array, "B T H E"], position: Int[Array, "B T"]) -> Float[Array, "B T H E"]:
        """``x`` rotated as at a position, on top of how it is rotated; float32."""
        x = x.astype(jnp.float32)
        if self.rotation is None:
            return x
        cos, sin = self.rotation(position)
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _asking(self, queries: Float[Array, "B T H E"], position: Int[Array, "B T"]) -> Float[Array, "B T H E"]:
        """Queries as they ask for blocks: all at one distance."""
        distance = self.rule.local if self.rule.distance is None else self.rule.distance
        return self._turned(queries, distance - position)

    def _settled(
        self,
        part: tuple[QueryStatistics, Float[Array, "B T H E"], Float[Array, "B G W E"], Float[Array, "B G R"]],
        path: Int[Array, "B A"] | None,
        count: Int[Array, "B"],
    ) -> tuple[QueryStatistics, Float[Array, "B G R"], Float[Array, "B M D"]]:
        """Of one layer after a commit: statistics, attention received in no block, representatives of blocks begun there."""
        rule, (statistics, queries, near, old) = self.rule, part
        if path is not None:
            queries = jnp.take_along_axis(queries, path[:, :, None, None], axis=1)
        batch, num_new = queries.shape[:2]
        offset = jnp.arange(num_new)
        asking = self._asking(queries, self.length[:, None] + offset).reshape(batch, num_new, -1)
        statistics = update(statistics, asking, offset < count[:, None], rule.memory)

        slot = near_slots(rule, self.length, num_new)[:, rule.sinks :]
        share = received(queries, near, self.length, jnp.maximum(count, 0), rule).astype(jnp.float32)
        share = share + jnp.where((slot < self.length[:, None])[:, None], old, 0)

        size, made = rule.block_size, -(-num_new // rule.block_size)
        keys = near[:, :, rule.sinks : rule.sinks + made * size].swapaxes(1, 2)
        plain = self._turned(keys, -slot[:, : made * size])  # [B, M size, G, E]
        plain = plain.reshape(batch, made, size, *plain.shape[2:]).swapaxes(2, 3)
        most = share[..., : made * size].reshape(batch, -1, made, size).swapaxes(1, 2)  # [B, M, G, size]
        _, index = jax.lax.top_k(most, rule.representatives)
        means = jnp.take_along_axis(plain, index[..., None], axis=3).mean(axis=3)
        return statistics, share, means.reshape(batch, made, -1)


def _cut(side: Float[Array, "B ..."], start: Int[Array, "B"], size: int, axis: int) -> Float[Array, "B ..."]:
    """``size`` entries of every row from ``start`` on."""
    return jax.vmap(lambda side, at: jax.lax.dynamic_slice_in_dim(side, at, size, axis))(side, start)


def _put(
    side: Float[Array, "B ..."], part: Float[Array, "B ..."], start: Int[Array, "B"], axis: int
) -> Float[Array, "B ..."]:
    """Write ``part[b]`` at ``start[b]``."""
    return jax.vmap(lambda side, part, at: jax.lax.dynamic_update_slice_in_dim(side, part, at, axis))(side, part, start)
