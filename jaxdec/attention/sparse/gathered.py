"""Attention to a selection, in jax: a block of queries against the keys that are gathered for it.

Computes the sparse attention of Nawrot et al. 2025 (arXiv 2504.17768) for every rule: the queries of a block against the tiles
and columns of its :class:`~jaxdec.attention.sparse.selection.Selection`, some 512 keys at a time, merged by the running maximum
(online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867):

    m' = max(m, max s)     z' = z e^(m - m') + sum e^(s - m')     o' = o e^(m - m') + e^(s - m') V

Loops run over what is in use, so the cost follows the number of selected keys and not the square of the prompt's length. All
products are plain matrices: with batch dimensions they are many times slower on processors. Heads, and blocks of a head, are
computed one after the other there, and side by side elsewhere.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdec.attention.sparse.selection import PrefillRule, sparsity
from jaxdec.typing import Array, Float, Int
from pallas_kernels.listed_attention.xla import KEYS_AT_A_TIME, even_pieces
from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of
from pallas_kernels.tiled_attention.xla import over_tiles


def sparse_attention(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    lengths: Int[Array, "B"],
    rule: PrefillRule,
) -> Float[Array, "B T H E"]:
    """Attention of prompts to what ``rule`` selects; see :func:`sparse_attention_state`."""
    return sparse_attention_state(q, k, v, lengths, rule)[0]


def sparse_attention_state(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    lengths: Int[Array, "B"],
    rule: PrefillRule,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"]]:
    """``softmax(q k^T / sqrt(E)) v`` over what ``rule`` selects, and the log-sum-exp of those scores, for merging.

    Head ``h`` reads key/value head ``h // (H / G)``. Scores, softmax and results are float32 at least. It has no gradient: the
    loops run as often as the selection asks for.

    Args:
      q: queries; ``T == S``, and prompts begin at slot 0.
      k: keys.
      v: values.
      lengths: tokens of each prompt, 0 to ``T``. What lies behind is not read, in ``q`` neither, and may be NaN.
      rule: static.

    Returns:
      Output and natural log-sum-exp; ``(0, -inf)`` behind ``lengths``.

    Raises:
      TypeError: see :meth:`PrefillRule.check`.
      ValueError: see :meth:`PrefillRule.check`.
    """
    return sparse_attention_counted(q, k, v, lengths, rule)[:2]


def sparse_attention_counted(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S G E"],
    v: Float[Array, "B S G E"],
    lengths: Int[Array, "B"],
    rule: PrefillRule,
) -> tuple[Float[Array, "B T H E"], Float[Array, "B T H"], Float[Array, "B H"]]:
    """:func:`sparse_attention_state`, and the :func:`~jaxdec.attention.sparse.selection.sparsity` of each prompt and head."""
    rule.check(q, k, v, lengths)
    batch, num_tokens, num_heads, head_dim = q.shape
    num_kv_heads = k.shape[2]
    group = num_heads // num_kv_heads

    def of_kv_head(index):
        row, kv_head = index // num_kv_heads, index % num_kv_heads
        used = (jnp.arange(num_tokens) < lengths[row])[:, None]
        keys, values = (jnp.where(used, side[row, :, kv_head], 0) for side in (k, v))  # 0 * NaN is NaN

        def of_head(member):
            queries = jnp.where(used, q[row, :, kv_head * group + member], 0)
            out, lse, skipped = _attend_head(queries, keys, values, lengths[row], rule)
            return jnp.where(used, out, 0), jnp.where(used[:, 0], lse, -jnp.inf), skipped

        return over_tiles(of_head, jnp.arange(group))

    out, lse, skipped = over_tiles(of_kv_head, jnp.arange(batch * num_kv_heads))
    out = out.reshape(batch, num_heads, num_tokens, head_dim).transpose(0, 2, 1, 3)
    lse = lse.reshape(batch, num_heads, num_tokens).transpose(0, 2, 1)
    return out, lse, skipped.reshape(batch, num_heads)


def _attend_head(
    q: Float[Array, "T E"], k: Float[Array, "T E"], v: Float[Array, "T E"], length: Int[Array, ""], rule: PrefillRule
) -> tuple[Float[Array, "T E"], Float[Array, "T"], Float[Array, ""]]:
    """Attention of one prompt and one head, and its sparsity; arguments are 0 behind ``length``."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else q.dtype  # two-byte products are slow on processors
    num_tokens, width = q.shape
    selection = rule.select(q, k, length)
    block, num_blocks = selection.block, selection.tiles.shape[0]
    unused = num_blocks * block
    queries = _pad(q, unused - num_tokens).reshape(num_blocks, block, width).astype(product_type)
    keys, values = (_pad(side, unused + block - num_tokens).astype(product_type) for side in (k, v))

    def fold_in(state: SoftmaxState, rows, first, position, block_keys, block_values) -> SoftmaxState:
        scores = jnp.dot(rows, block_keys.T, preferred_element_type=dtype, precision=precision_of(product_type))
        reads = rule.reads(first + jnp.arange(block)[:, None], position, length)
        return fold(state, jnp.where(reads, scores * width**-0.5, -jnp.inf), block_values)

    def of_block(part):
        rows, tiles, num_tiles, columns, num_columns, first = part

        def read_tiles(state, starts):
            def cut(side):
                pieces = jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(side, start, block))(starts)
                return pieces.reshape(-1, width)

            position = (starts[:, None] + jnp.arange(block)).reshape(-1)
            return fold_in(state, rows, first, position, cut(keys), cut(values))

        def read_columns(state, position):
            cut = (side.at[position].get(mode="promise_in_bounds") for side in (keys, values))
            return fold_in(state, rows, first, position, *cut)

        state = empty(block, width, dtype)
        state = _in_chunks(read_tiles, state, tiles, num_tiles, max(KEYS_AT_A_TIME // block, 1), unused)
        state = _in_chunks(read_columns, state, columns, num_columns, KEYS_AT_A_TIME, unused)
        out, lse = finish(state)
        return out, lse[:, 0]

    parts = (
        queries,
        selection.tiles,
        selection.num_tiles,
        selection.columns,
        selection.num_columns,
        block * jnp.arange(num_blocks),
    )
    out, lse = over_tiles(of_block, parts)
    skipped = sparsity(jax.tree.map(lambda x: x[None, None], selection), length[None])[0, 0]
    return out.reshape(unused, width)[:num_tokens], lse.reshape(unused)[:num_tokens], skipped


def _in_chunks(
    read: Callable[[SoftmaxState, Array], SoftmaxState],
    state: SoftmaxState,
    places: Int[Array, "N"],
    count: Int[Array, ""],
    chunk: int,
    unused: int,
) -> SoftmaxState:
    """Read the first ``count`` places, ``chunk`` at a time; filled up with ``unused``."""
    if not places.shape[0]:
        return state
    chunk = even_pieces(places.shape[0], chunk)
    places = jnp.pad(places, (0, -places.shape[0] % chunk), constant_values=unused)

    def step(index, state):
        return read(state, jax.lax.dynamic_slice_in_dim(places, index * chunk, chunk))

    return jax.lax.fori_loop(0, (count + chunk - 1) // chunk, step, state)


def _pad(array: Float[Array, "T E"], rows: int) -> Float[Array, "N E"]:
    return jnp.pad(array, ((0, rows), (0, 0)))
