"""Random prompts with NaN behind them, rules to try on them, and selections written as loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.gathered import sparse_attention_state
from jaxdec.attention.sparse.selection import selected_mask
from jaxdec.attention.sparse.vertical_slash import VerticalSlash

RULES = {
    "blocks of 8": BlockSparse(top_blocks=3, block=8),
    "blocks of 5": BlockSparse(top_blocks=4, block=5),
    "vertical-slash": VerticalSlash(vertical=7, slash=6, window=12, sinks=2, local=3, tile=8),
    "exact diagonals": VerticalSlash(vertical=5, slash=9, window=12, sinks=3, local=2, tile=1),
    "flex": FlexPrefill(alpha=0.4, min_budget=4, window=12, sinks=2, local=3, tile=8),
    "bounded flex": FlexPrefill(alpha=0.9, min_budget=4, max_budget=9, window=12, sinks=2, local=3, tile=6),
}
SHAPES = [(2, 70, 4, 2, 8), (3, 32, 2, 2, 4)]  # B, T, H, G, E
NAMES = [  # the others differ in sizes only
    name if name in ("blocks of 8", "vertical-slash", "flex") else pytest.param(name, marks=pytest.mark.slow)
    for name in RULES
]
SHAPE_OF = {name: SHAPES[index % 2] for index, name in enumerate(RULES)}  # one each: compiling takes most of the time

attend = jax.jit(sparse_attention_state, static_argnames="rule")


@functools.partial(jax.jit, static_argnums=0)
def _selected(rule, q, k, lengths):
    selection = rule.selection(q, k, lengths)
    return selection, selected_mask(selection, lengths, q.shape[1])


def mask_of(rule, q, k, lengths):
    """The mask of a rule, in numpy, from the same compiled function as :func:`selection_of`."""
    return np.asarray(_selected(rule, q, k, lengths)[1])


def selection_of(rule, q, k, lengths):
    """The selection of a rule."""
    return _selected(rule, q, k, lengths)[0]


def prompts(seed, shape, lengths, dtype=jnp.float32, sharpness=1.5):
    """Queries, keys, values and lengths of a ragged batch; everything behind a prompt is NaN."""
    batch, tokens, heads, kv_heads, width = shape
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(batch, tokens, heads, width)) * sharpness
    k, v = rng.normal(size=(2, batch, tokens, kv_heads, width))
    behind = (np.arange(tokens) >= np.asarray(lengths)[:, None])[..., None, None]
    q, k, v = (jnp.asarray(np.where(behind, np.nan, side), dtype) for side in (q, k, v))
    return q, k, v, jnp.asarray(lengths, jnp.int32)


def heads_of(q, k, lengths):
    """``(row, head, q [L, E], k [L, E])`` in float64, for each prompt and query head."""
    group = q.shape[2] // k.shape[2]
    for row, length in enumerate(np.asarray(lengths)):
        for head in range(q.shape[2]):
            yield row, head, *(np.asarray(x, np.float64)[:length] for x in (q[row, :, head], k[row, :, head // group]))


def block_sparse_mask(rule, q, k, lengths):
    """What Nawrot et al.'s block-sparse attention reads, block by block."""
    mask = np.zeros((q.shape[0], q.shape[2], q.shape[1], q.shape[1]), bool)
    for row, head, queries, keys in heads_of(q, k, lengths):
        starts = range(0, len(queries), rule.block)
        blocks = [slice(start, min(start + rule.block, len(queries))) for start in starts]
        for n, rows in enumerate(blocks):
            score = {m: queries[rows].mean(0) @ keys[blocks[m]].mean(0) for m in range(n + 1)}
            score |= dict.fromkeys({0, max(n - 1, 0), n}, np.inf)
            for m in sorted(score, key=lambda m: -score[m])[: rule.top_blocks]:
                mask[row, head, rows, blocks[m]] = True
    return mask & np.tril(np.ones(mask.shape[2:], bool))


def last_query_scores(rule, queries, keys):
    """Means over the last queries: attention to each key, and at each distance."""
    length = len(queries)
    columns, slashes = np.zeros(length), np.zeros(length)
    last = range(max(length - rule.window, 0), length)
    for i in last:
        scores = keys[: i + 1] @ queries[i] / queries.shape[1] ** 0.5
        weights = np.exp(scores - scores.max())
        for j in range(i + 1):
            columns[j] += weights[j] / weights.sum()
            slashes[i - j] += weights[j] / weights.sum()
    return columns / max(len(last), 1), slashes / max(len(last), 1)


def best(scores, always, count):
    """Indices of the ``count`` largest scores, the first ``always`` before all others."""
    order = sorted(range(len(scores)), key=lambda i: (i >= always, -scores[i]))
    return sorted(order[:count])


def vertical_slash_mask(rule, q, k, lengths, columns_and_slashes):
    """What Nawrot et al.'s vertical-slash attention reads, with the tiles of their index."""
    mask = np.zeros((q.shape[0], q.shape[2], q.shape[1], q.shape[1]), bool)
    for row, head, queries, keys in heads_of(q, k, lengths):
        columns, slashes = columns_and_slashes(*last_query_scores(rule, queries, keys))
        for first in range(0, len(queries), rule.tile):
            rows = slice(first, min(first + rule.tile, len(queries)))
            mask[row, head, rows, columns] = True
            end = -1
            for start in [max(first - d, 0) for d in reversed(slashes) if d < first + rule.tile]:
                if start > end:  # a gap: a new range of tiles
                    begin, end = start, start + rule.tile
                elif start + rule.tile > end:  # the range grows by one tile
                    begin, end = end, end + rule.tile
                else:
                    continue
                mask[row, head, rows, begin:end] = True
    return mask & np.tril(np.ones(mask.shape[2:], bool))


def textbook(q, k, v, mask):
    """Attention over the cells of a mask and its log-sum-exp, row by row in float64; ``(0, -inf)`` without cells."""
    q, k, v, mask = np.asarray(q, np.float64), np.asarray(k, np.float64), np.asarray(v, np.float64), np.asarray(mask)
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    group = q.shape[2] // k.shape[2]
    for b, h, t in zip(*np.nonzero(mask.any(-1)), strict=True):
        (read,) = np.nonzero(mask[b, h, t])
        scores = k[b, read, h // group] @ q[b, t, h] / q.shape[3] ** 0.5
        lse[b, t, h] = np.logaddexp.reduce(scores)
        out[b, t, h] = np.exp(scores - lse[b, t, h]) @ v[b, read, h // group]
    return out, lse


def causal_mask(shape, lengths):
    """All causal cells of a ragged batch."""
    batch, tokens, heads, _, _ = shape
    used = np.arange(tokens) < np.asarray(lengths)[:, None]
    full = np.tril(np.ones((tokens, tokens), bool)) & used[:, :, None]
    return np.broadcast_to(full[:, None], (batch, heads, tokens, tokens))
