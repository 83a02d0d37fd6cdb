"""A layout that remembers some queries of the prompts while these are fed in any other layout.

Rules that decide after the prompt what is kept (SnapKV, ZipVL) look at few of its queries: the last ones, or drawn ones. Their
positions are known before; their queries are noted layer by layer as chunks pass.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.cache.protocol import Cache
from jaxdec.typing import Array, Bool, Float, Int


class ObservedCache(struct.PyTreeNode):
    """Another layout, and the queries at some positions.

    Attributes:
      inner: what is appended goes there, and attention comes from there.
      positions: of the queries that are noted; a negative one is of no query.
      queries: per layer, in the order of the positions; 0 where none has passed yet. None before the first pass, which then
        must be the only one.
    """

    inner: Any
    positions: Int[Array, "B P"]
    queries: tuple[Float[Array, "B P H E"] | None, ...]

    @classmethod
    def of(cls, inner: Cache, positions: Int[Array, "B P"], num_layers: int) -> "ObservedCache":
        """Nothing noted yet."""
        return cls(inner, positions, (None,) * num_layers)

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
        """Bytes of keys and values held; noted queries are not counted, which are gone when decoding begins."""
        return self.inner.nbytes

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Any:
        """That of the other layout."""
        return self.inner.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "ObservedCache":
        """Append to the other layout."""
        return self.replace(inner=self.inner.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "ObservedCache":
        """Note the queries whose positions are among the new tokens'."""
        index = self.positions - self.inner.length[:, None]
        here = (self.positions >= 0) & (index >= 0) & (index < queries.shape[1])
        found = jnp.take_along_axis(queries, jnp.clip(index, 0, queries.shape[1] - 1)[..., None, None], axis=1)
        before = self.queries[layer]
        noted = jnp.where(here[..., None, None], found, 0 if before is None else before)
        layers = (*self.queries[:layer], noted, *self.queries[layer + 1 :])
        return self.replace(inner=self.inner.observe(layer, queries), queries=layers)

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: Any) -> Float[Array, "B T H E"]:
        """Attention of the other layout."""
        return self.inner.attend(layer, queries, mask)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "ObservedCache":
        """Commit to the other layout."""
        return self.replace(inner=self.inner.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "ObservedCache":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        noted = jax.tree.map(lambda array: array[rows], (self.positions, self.queries))
        return ObservedCache(self.inner.fork(rows), *noted)
