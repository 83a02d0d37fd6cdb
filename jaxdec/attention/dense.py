"""Dense softmax attention over cache slots, with grouped query heads.

The keys are read in blocks, up to the last slot in use, and their contributions merged by the running maximum (online
softmax: Milakov & Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135):

    m' = max(m, max s),  z' = z e^(m - m') + sum e^(s - m'),  o' = o e^(m - m') + e^(s - m') V

so the cost follows the text, not the capacity. Blocks start at fixed multiples of their size whatever the batch, and a block
that a row may not read adds exactly nothing to it: a row's result does not depend on the rows beside it, up to how the
backend rounds products of another batch size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.typing import Array, Bool, Float, Int

KEY_BLOCK = 128
QUERY_TILE = 128
MASKED = -1e30  # finite: a block masked as a whole must not turn into NaN by -inf - -inf
Reader = Callable[[Int[Array, ""]], tuple[Float[Array, "B G S E"], Float[Array, "B G S E"]]]


class SlotMask(struct.PyTreeNode):
    """Which slots the new tokens may read.

    Attributes:
      allowed: per new token and slot; every new token is allowed at least one.
      end: slots in use per row, the new tokens' included; what lies behind is never read.
      causal: new token ``t`` reads no slot behind its own, ``end - T + t`` (lets long prefills skip half the work).
      room: slots that each row has, where that is fewer than the mask has; what lies behind is never read.
    """

    allowed: Bool[Array, "B T S"]
    end: Int[Array, "B"]
    causal: bool = struct.field(pytree_node=False)
    room: Int[Array, "B"] | None = None

    @classmethod
    def behind(
        cls,
        length: Int[Array, "B"],
        capacity: int,
        num_new: int,
        visible: Bool[Array, "B T T"] | None,
        room: Int[Array, "B"] | None = None,
    ) -> "SlotMask":
        """New tokens behind ``length`` committed slots read all of those, and the new ones that ``visible`` allows."""
        slot = jnp.arange(capacity)
        offset = slot[None, None, :] - length[:, None, None]  # index among the new tokens, negative if committed
        if visible is None:
            allowed = offset <= jnp.arange(num_new)[None, :, None]
        else:
            index = jnp.broadcast_to(jnp.clip(offset, 0, num_new - 1), (*visible.shape[:2], capacity))
            allowed = (offset < 0) | ((offset < num_new) & jnp.take_along_axis(visible, index, axis=2))
        if room is not None:
            allowed = allowed & (slot < room[:, None])[:, None]
        return cls(allowed, length + num_new, visible is None, room)


def dense_attention(
    queries: Float[Array, "B T H E"],
    keys: Float[Array, "B G S E"],
    values: Float[Array, "B G S E"],
    mask: SlotMask,
    key_block: int | None = None,
) -> Float[Array, "B T H E"]:
    """``softmax(q k^T / sqrt(E)) v`` over the allowed slots; see :func:`dense_attention_state`."""
    return dense_attention_state(queries, keys, values, mask, key_block)[0]


def dense_attention_state(
    queries: Float[Array, "B T H E"],
    keys: Float[Array, "B G S E"],
    values: Float[Array, "B G S E"],
    mask: SlotMask,
    key_block: int | None = None,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """``softmax(q k^T / sqrt(E)) v`` over the allowed slots, and the log-sum-exp of the scores, for merging.

    Head ``h`` reads key/value head ``h // (H / G)``. Scores, softmax and result are float32 at least. Slots from
    ``mask.end`` on can hold anything, NaN included.

    Args:
      queries: of the new tokens.
      keys: all slots.
      values: all slots.
      mask: which slots each new token may read.
      key_block: slots read at a time; by default :func:`default_key_block`.
    """
    capacity = keys.shape[2]
    key_block = min(default_key_block(capacity) if key_block is None else key_block, capacity)

    def cut(buffer, start):
        return jax.lax.dynamic_slice_in_dim(buffer, start, key_block, axis=2)

    def read(start):
        return cut(keys, start), cut(values, start)

    return attend_blocks(queries, read, mask, key_block, num_kv_heads=keys.shape[1], dtype=keys.dtype)


def default_key_block(capacity: int) -> int:
    """128 on CPU, and all slots at once elsewhere: a loop on an accelerator launches kernels over and over."""
    return KEY_BLOCK if jax.default_backend() == "cpu" else capacity


def attend_blocks(
    queries: Float[Array, "B T H E"], read: Reader, mask: SlotMask, key_block: int, *, num_kv_heads: int, dtype: Any
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """:func:`dense_attention_state` of keys and values that lie anywhere.

    Args:
      queries: of the new tokens.
      read: gives the keys and values of the ``key_block`` slots of every row from a slot on.
      mask: which slots each new token may read.
      key_block: slots read at a time, as many as the mask has at most.
      num_kv_heads: heads of what ``read`` gives.
      dtype: and its type.
    """
    batch, num_new, num_heads, head_dim = queries.shape
    group = num_heads // num_kv_heads
    scaled = (queries * head_dim**-0.5).astype(dtype)
    grouped = scaled.reshape(batch, num_new, num_kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    tile = QUERY_TILE if mask.causal else num_new
    outputs, lses = [], []
    for start in range(0, num_new, tile):
        size = min(tile, num_new - start)
        rows = grouped[:, :, :, start : start + size].reshape(batch, num_kv_heads, group * size, head_dim)
        allowed = jnp.tile(mask.allowed[:, start : start + size], (1, group, 1))
        end = mask.end - (num_new - start - size) if mask.causal else mask.end
        end = end if mask.room is None else jnp.minimum(end, mask.room)
        out, lse = _attend_blocks(rows, read, allowed, end, key_block)
        outputs.append(out.reshape(batch, num_kv_heads, group, size, head_dim).transpose(0, 3, 1, 2, 4))
        lses.append(lse.reshape(batch, num_kv_heads, group, size).transpose(0, 3, 1, 2))
    out = jnp.concatenate(outputs, axis=1).reshape(batch, num_new, num_heads, head_dim)
    return out, jnp.concatenate(lses, axis=1).reshape(batch, num_new, num_heads)


def _attend_blocks(
    queries: Float[Array, "B G N E"],
    read: Reader,
    allowed: Bool[Array, "B N S"],
    end: Int[Array, "B"],
    key_block: int,
) -> tuple[Float[Array, "B G N E"], Float[Array, "B G N"]]:
    """Attention of ``N`` query rows per key/value head, block by block, and its log-sum-exp."""
    batch, num_kv_heads, rows, _ = queries.shape
    capacity = allowed.shape[2]
    accumulate = jnp.promote_types(queries.dtype, jnp.float32)

    def merge(index, carry):
        top, total, out = carry
        first = index * key_block
        start = jnp.minimum(first, capacity - key_block)  # a last, shorter block overlaps the one before
        slot = start + jnp.arange(key_block)
        block_keys, block_values = read(start)
        readable = jax.lax.dynamic_slice_in_dim(allowed, start, key_block, axis=2) & (slot >= first)
        used = (slot < end[:, None])[:, None, :, None]
        scores = jnp.einsum("bgne,bgse->bgns", queries, block_keys, preferred_element_type=accumulate)
        scores = jnp.where(readable[:, None], scores, MASKED)
        new_top = jnp.maximum(top, scores.max(-1, keepdims=True))
        shrink, weights = jnp.exp(top - new_top), jnp.exp(scores - new_top)
        block_values = jnp.where(used, block_values, 0)  # 0 * NaN is NaN
        part = jnp.einsum(
            "bgns,bgse->bgne", weights.astype(block_values.dtype), block_values, preferred_element_type=accumulate
        )
        return new_top, total * shrink + weights.sum(-1, keepdims=True), out * shrink + part

    nothing = jnp.zeros((batch, num_kv_heads, rows, 1), accumulate)
    carry = (nothing + MASKED, nothing, jnp.zeros(queries.shape, accumulate))
    if key_block == capacity:
        top, total, out = merge(0, carry)
    else:
        top, total, out = jax.lax.fori_loop(0, (end.max() + key_block - 1) // key_block, merge, carry)
    return out / total, (top + jnp.log(total))[..., 0]
