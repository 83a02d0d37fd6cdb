"""The pooled version of a prompt's chunks: markers as they are, windows of other tokens averaged.

Video-XL-2. Qin et al., 2025, arXiv 2506.19225. For a window of tokens, with ``R(p)`` the rotary matrix of position ``p``,

    K~ = mean of R(-p) k_p        V~ = mean of v_p        p in the window

:mod:`jaxdec.cache.bilevel` says what for.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.attention.sparse.chunked_prefill import check_chunks
from jaxdec.typing import Array, Float

Rotation = Callable[[Array], tuple[Array, Array]]
"""Cosine and sine ``[B, T, 1, E / 2]`` of positions ``int32[B, T]``, such as ``partial(jaxdec.models.rope.rotation, config)``.
Static: the same object each time, else everything compiles anew."""


@dataclasses.dataclass(frozen=True)
class BilevelLayout:
    """How prompts are cut and pooled.

    Attributes:
      chunk: tokens in a chunk, markers included; whole groups.
      prefix: tokens before the first chunk.
      marker: tokens that each group begins with and that are never pooled, fewer than a group has.
      group: tokens in a group, markers included; by default a chunk is one group.
      compression: tokens in a window, at least 1.
    """

    chunk: int
    prefix: int = 0
    marker: int = 0
    group: int | None = None
    compression: int = 4

    def __post_init__(self):
        check_chunks(self.chunk, self.prefix, self.marker, self.group)
        if self.marker == self.tokens_in_group:
            raise ValueError(f"marker must leave tokens to pool in a group of {self.marker}; got {self.marker}")
        if self.compression < 1:
            raise ValueError(f"compression must be at least 1 token; got {self.compression}")

    @property
    def tokens_in_group(self) -> int:
        """The size of a group."""
        return self.group or self.chunk

    @property
    def windows(self) -> int:
        """Windows in a group, the last one shorter if it has to be."""
        return -(-(self.tokens_in_group - self.marker) // self.compression)

    @functools.cached_property
    def entries(self) -> np.ndarray:
        """First token within the chunk, and number of tokens, of each pooled entry of a whole chunk: ``int[N, 2]``."""
        marker, group = self.marker, self.tokens_in_group
        first = [*range(marker), *range(marker, group, self.compression)]
        size = [1] * marker + [min(self.compression, group - token) for token in first[marker:]]
        starts = np.arange(0, self.chunk, group)
        return np.stack([np.add.outer(starts, first).ravel(), np.tile(size, len(starts))], axis=1)

    def num_chunks(self, num_tokens: int) -> int:
        """Chunks of a prompt, the last one full or not."""
        return max(-(-(num_tokens - self.prefix) // self.chunk), 0)


class Entries(struct.PyTreeNode):
    """Keys and values of all layers, or of one while layers are gone through.

    Attributes:
      keys: rotated for their place in the prompt; means over windows are not rotated.
      values: of the same.
    """

    keys: Float[Array, "*layers B G S E"]
    values: Float[Array, "*layers B G S E"]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes


def turn(
    keys: Float[Array, "B G S E"], back: tuple[Array, Array], onto: tuple[Array, Array]
) -> Float[Array, "B G S E"]:
    """``R(onto) R(-back) k``, float32 at least, from the cosines and sines ``[B, S, 1, E / 2]`` of both."""
    (cos, sin), (new_cos, new_sin) = (tuple(side.swapaxes(1, 2) for side in pair) for pair in (back, onto))
    cos, sin = new_cos * cos + new_sin * sin, new_sin * cos - new_cos * sin  # of the difference of the two angles
    first, second = jnp.split(keys.astype(jnp.promote_types(keys.dtype, jnp.float32)), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def both_versions(layout: BilevelLayout, rotation: Rotation, num_chunks: int, keys, values, length):
    """Prefix, chunks and pooled chunks of all layers."""
    slots = layout.prefix + num_chunks * layout.chunk
    batch, num_kv_heads, capacity, width = keys[0].shape
    used = jnp.arange(slots) < length[:, None]
    place = jnp.broadcast_to(jnp.arange(slots, dtype=jnp.int32), (batch, slots))
    back, zero = rotation(place[:, layout.prefix :]), rotation(jnp.zeros_like(place[:, layout.prefix :]))
    groups = (num_chunks * (layout.chunk // layout.tokens_in_group), layout.tokens_in_group)
    spare = layout.windows * layout.compression - (layout.tokens_in_group - layout.marker)

    def windows(side):  # sums over windows
        content = side.reshape(*side.shape[:2], *groups, side.shape[3])[:, :, :, layout.marker :]
        content = jnp.pad(content, ((0, 0), (0, 0), (0, 0), (0, spare), (0, 0)))
        return content.reshape(*content.shape[:3], layout.windows, layout.compression, side.shape[3]).sum(axis=4)

    count = jnp.maximum(windows(used[:, None, layout.prefix :, None].astype(jnp.float32)), 1)

    def of_layer(layer):
        # 0 behind the prompt, where anything may lie
        clean = [jnp.pad(side, ((0, 0), (0, 0), (0, max(slots - capacity, 0)), (0, 0)))[:, :, :slots] for side in layer]
        clean = [jnp.where(used[:, None, :, None], side, 0) for side in clean]
        body = [side[:, :, layout.prefix :] for side in clean]
        plain = [turn(body[0], back, zero), body[1].astype(jnp.promote_types(values[0].dtype, jnp.float32))]
        pooled = []
        for own, whole in zip(body, plain):
            kept = own.reshape(batch, num_kv_heads, *groups, width)[:, :, :, : layout.marker]
            means = (windows(whole) / count).astype(own.dtype)
            pooled.append(jnp.concatenate([kept, means], axis=3).reshape(batch, num_kv_heads, -1, width))
        return Entries(*clean), Entries(*pooled)

    clean, pooled = jax.lax.map(of_layer, (jnp.stack(keys), jnp.stack(values)))

    def cut(start: int, size: int) -> Entries:
        return jax.tree.map(lambda side: side[:, :, :, start : start + size], clean)

    chunks = tuple(cut(start, layout.chunk) for start in range(layout.prefix, slots, layout.chunk))
    return cut(0, layout.prefix), chunks, pooled
