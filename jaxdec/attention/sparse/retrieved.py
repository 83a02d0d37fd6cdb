"""Attention to retrieved blocks of a cache, to its sinks, and to all that is in no block; and what newest tokens receive.

The second stage of InfLLM (Xiao et al. 2024, arXiv 2402.04617) and ActQKV (arXiv 2502.13542), exact over what is read: keys are
rotated at their own positions, so that reading all blocks is dense attention. There, everything that has left the local window
is read at one distance.

The *near* slots of a row with ``n`` blocks of ``B`` tokens are its ``sinks`` first ones and ``reach`` of them from
``sinks + n B`` on, new tokens included; no block has any of these. Loops run over the blocks that are asked for, in plain
products, one head of one row after another on processors.
"""

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.attention.sparse.slots import cut_pieces, cut_slots
from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles

TOKENS_AT_A_TIME = 256


def reach(rule: ActQKV, num_new: int) -> int:
    """Slots behind the blocks that a pass of ``num_new`` tokens may have to read, the new ones included."""
    return rule.local + rule.block_size - 1 + num_new


def near_slots(rule: ActQKV, length: Int[Array, "B"], num_new: int) -> Int[Array, "B W"]:
    """The near slots of each row, some of them unused; ``W`` is ``sinks`` and :func:`reach`."""
    behind = rule.sinks + rule.num_blocks(length) * rule.block_size
    first = jnp.broadcast_to(jnp.arange(rule.sinks), (length.shape[0], rule.sinks))
    return jnp.concatenate([first, behind[:, None] + jnp.arange(reach(rule, num_new))], axis=1).astype(jnp.int32)


def near_mask(
    rule: ActQKV, length: Int[Array, "B"], num_new: int, visible: Bool[Array, "B T T"] | None
) -> Bool[Array, "B T W"]:
    """Which near slots each new token reads: all committed ones, and the new ones visible to it (causal by default)."""
    new = near_slots(rule, length, num_new) - length[:, None]
    if visible is None:
        return new[:, None] <= jnp.arange(num_new)[:, None]
    index = jnp.broadcast_to(jnp.clip(new, 0, num_new - 1)[:, None], (*visible.shape[:2], new.shape[1]))
    return (new < 0)[:, None] | ((new < num_new)[:, None] & jnp.take_along_axis(visible, index, axis=2))


def near_of(
    side: Float[Array, "B G S E"], row: Int[Array, ""], head: Int[Array, ""], slots: Int[Array, "W"], sinks: int
) -> Float[Array, "W E"]:
    """The near slots of one head of one row."""
    rest = cut_slots(side, row, head, slots[sinks], slots.shape[0] - sinks)
    return jnp.concatenate([cut_slots(side, row, head, jnp.zeros_like(row), sinks), rest]) if sinks else rest


def retrieved_attention(
    queries: Float[Array, "B T H E"],
    keys: Float[Array, "B G S E"],
    values: Float[Array, "B G S E"],
    length: Int[Array, "B"],
    chosen: Int[Array, "B K"],
    count: Int[Array, "B"],
    allowed: Bool[Array, "B T W"],
    rule: ActQKV,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """Attention of new tokens to the near slots and the chosen blocks, and the log-sum-exp of the scores, scaled by ``E^-0.5``.

    Args:
      queries: of the new tokens, whose keys and values lie behind ``length``.
      keys: all slots; ``sinks + num_blocks * block_size + reach`` of each row must lie within ``S``. Unused ones may be NaN.
      values: all slots.
      length: committed entries per row.
      chosen: blocks, those in use first.
      count: how many of them are read.
      allowed: :func:`near_mask`.
      rule: static.
    """
    batch, num_new, num_heads, width = queries.shape
    num_kv_heads = keys.shape[1]
    size, dtype = rule.block_size, jnp.promote_types(queries.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else keys.dtype  # two-byte products are slow on processors
    at_a_time = min(max(TOKENS_AT_A_TIME // size, 1), chosen.shape[1])
    chosen = jnp.pad(chosen, ((0, 0), (0, -chosen.shape[1] % at_a_time)))
    slots = near_slots(rule, length, num_new)
    group = num_heads // num_kv_heads
    grouped = queries.reshape(batch, num_new, num_kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, num_kv_heads, group * num_new, width)

    def of_head(index):
        row, head = index // num_kv_heads, index % num_kv_heads
        rows = grouped[row, head].astype(product_type)

        def read(state: SoftmaxState, used, seen, sides) -> SoftmaxState:
            block_keys, block_values = (jnp.where(used[:, None], side, 0).astype(product_type) for side in sides)
            scores = jnp.dot(rows, block_keys.T, preferred_element_type=dtype, precision=precision_of(product_type))
            return fold(state, jnp.where(seen, scores * width**-0.5, -jnp.inf), block_values)

        def read_blocks(number, state):
            first = number * at_a_time
            blocks = jax.lax.dynamic_slice_in_dim(chosen[row], first, at_a_time)
            used = jnp.repeat(first + jnp.arange(at_a_time) < count[row], size)
            begin = rule.sinks + blocks * size
            return read(state, used, used, (cut_pieces(side, row, head, begin, size) for side in (keys, values)))

        state = empty(rows.shape[0], width, dtype)
        near = (near_of(side, row, head, slots[row], rule.sinks) for side in (keys, values))
        state = read(state, slots[row] < length[row] + num_new, jnp.tile(allowed[row], (group, 1)), near)
        turns = (count[row] + at_a_time - 1) // at_a_time
        return finish(jax.lax.fori_loop(0, turns, read_blocks, state))

    out, lse = over_tiles(of_head, jnp.arange(batch * num_kv_heads))
    out = out.reshape(batch, num_kv_heads, group, num_new, width).transpose(0, 3, 1, 2, 4)
    lse = lse.reshape(batch, num_kv_heads, group, num_new).transpose(0, 3, 1, 2)
    return out.reshape(batch, num_new, num_heads, width), lse.reshape(batch, num_new, num_heads)


def near_keys(
    rule: ActQKV, keys: Float[Array, "B G S E"], length: Int[Array, "B"], num_new: int
) -> Float[Array, "B G W E"]:
    """Keys in the near slots of every row and head; unused ones may be NaN."""
    slots = near_slots(rule, length, num_new)

    def of_row(side, slots):
        rest = jax.lax.dynamic_slice_in_dim(side, slots[rule.sinks], slots.shape[0] - rule.sinks, axis=1)
        return jnp.concatenate([side[:, : rule.sinks], rest], axis=1)

    return jnp.stack([of_row(keys[row], slots[row]) for row in range(keys.shape[0])])


def received(
    queries: Float[Array, "B T H E"],
    near: Float[Array, "B G W E"],
    length: Int[Array, "B"],
    new: Int[Array, "B"],
    rule: ActQKV,
) -> Float[Array, "B G R"]:
    """Attention that tokens in no block receive from the new ones, of those among which they are within ``local`` tokens.

    Weights are those of the softmax over near slots alone, whatever was retrieved, so that what is kept of a text does not
    depend on that; they are summed over the new tokens and the query heads of a key/value head. ``R`` is :func:`reach`, from
    the first slot behind the blocks on.

    Args:
      queries: of new tokens that were committed, one behind the other; those from ``new`` on may be NaN.
      near: :func:`near_keys`, with the new tokens' behind ``length``.
      length: committed entries per row before them.
      new: how many there are in each row.
      rule: static.
    """
    batch, num_new, num_heads, width = queries.shape
    num_kv_heads = near.shape[1]
    group, dtype = num_heads // num_kv_heads, jnp.promote_types(queries.dtype, jnp.float32)
    offset = near_slots(rule, length, num_new) - length[:, None]
    grouped = queries.reshape(batch, num_new, num_kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch * num_kv_heads, group * num_new, width)
    token = jnp.arange(num_new)[:, None]

    def of_head(part):
        rows, keys, at, new = part
        valid = token < new
        keys = jnp.where((at < new)[:, None], keys, 0).astype(dtype)
        rows = jnp.where(jnp.tile(valid, (group, 1)), rows, 0).astype(dtype)
        scores = jnp.dot(rows, keys.T, precision=jax.lax.Precision.HIGHEST) * width**-0.5
        weights = jax.nn.softmax(jnp.where(jnp.tile(at <= token, (group, 1)), scores, -jnp.inf), axis=1)
        counted = valid & (at <= token) & (at > token - rule.local)
        return jnp.where(jnp.tile(counted, (group, 1)), weights, 0).sum(axis=0)[rule.sinks :]

    heads = (near.reshape(-1, *near.shape[2:]), jnp.repeat(offset, num_kv_heads, axis=0), jnp.repeat(new, num_kv_heads))
    return over_tiles(of_head, (grouped, *heads)).reshape(batch, num_kv_heads, -1)
