# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""The Triton program of :mod:`pallas_kernels.tiled_attention.triton`. Importing it needs the package ``triton``.

    grid: tiles x ranges of the keys x key/value heads

A program has the rows of one tile for one key/value head: its tokens, and the query heads that share the head. They are read
from where they are in ``[R, Hq, D]`` and written there, so nothing is gathered, folded or padded around the kernel. Tiles are
the fastest axis of the grid: those of one group run at the same time, and find the keys that they share in the L2 cache.

FlashAttention-2: Dao 2023, arXiv 2307.08691; ranges of keys: Flash-Decoding, Dao et al. 2023,
https://pytorch.org/blog/flash-decoding. The running softmax is that of :mod:`pallas_kernels.tiled_attention.softmax_state`, in
powers of two, which is what the hardware has.

Whole blocks need no mask. The last block of a tile has one, on the loads too: what lies behind the last key in use is not read.
"""

import triton
import triton.language as tl


@triton.jit
def attend_tiles(
    q,  # [R, Hkv * SHARING, WIDTH]
    k,  # [G, CAPACITY, Hkv, WIDTH]
    v,
    first_row,  # int32[W], of a tile
    num_rows,  # int32[W], rows of q, each with SHARING query heads
    group,  # int32[W]
    length,  # int32[W], keys in use
    o,  # float32[M, R, Hkv * SHARING, WIDTH]
    lse,  # float32[M, R, Hkv * SHARING]
    SCALE: tl.constexpr,  # of the scores, for powers of two
    ROWS: tl.constexpr,  # R
    CAPACITY: tl.constexpr,
    HEADS: tl.constexpr,  # Hkv
    SHARING: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,  # at least num_rows * SHARING; power of two
    BLOCK: tl.constexpr,  # keys at a time; power of two
    RANGE: tl.constexpr,  # keys of a range; multiple of BLOCK
):
    """One tile, one range, one head."""
    tile = tl.program_id(0)
    part = tl.program_id(1)
    head = tl.program_id(2)
    row = tl.arange(0, TILE)
    column = tl.arange(0, WIDTH)
    used = row < tl.load(num_rows + tile) * SHARING
    # Places in [R, Hq]: 64 bits for where the tile begins, 32 within it.
    begin = tl.load(first_row + tile).to(tl.int64) * (HEADS * SHARING) + head * SHARING
    place = row // SHARING * (HEADS * SHARING) + row % SHARING
    cells = place[:, None] * WIDTH + column[None, :]
    queries = tl.load(q + begin * WIDTH + cells, mask=used[:, None], other=0.0)

    first = part * RANGE
    stop = tl.minimum(tl.load(length + tile), first + RANGE)
    whole = first + tl.maximum(stop - first, 0) // BLOCK * BLOCK
    keys = tl.load(group + tile).to(tl.int64) * (CAPACITY * HEADS * WIDTH) + head * WIDTH
    key = tl.arange(0, BLOCK)
    block = key[:, None] * (HEADS * WIDTH) + column[None, :]

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    weighted = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(first, whole, BLOCK):
        at = keys + tl.cast(start, tl.int64) * (HEADS * WIDTH)
        k_block = tl.load(k + at + block)
        scores = tl.dot(queries, tl.trans(k_block), input_precision="ieee") * SCALE
        v_block = tl.load(v + at + block)
        top, total, weighted = fold(top, total, weighted, scores, v_block)
    if whole < stop:
        at = keys + tl.cast(whole, tl.int64) * (HEADS * WIDTH)
        in_use = whole + key < stop
        k_block = tl.load(k + at + block, mask=in_use[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(k_block), input_precision="ieee") * SCALE
        scores = tl.where(in_use[None, :], scores, float("-inf"))
        v_block = tl.load(v + at + block, mask=in_use[:, None], other=0.0)
        top, total, weighted = fold(top, total, weighted, scores, v_block)

    divisor = tl.where(total == 0.0, 1.0, total)
    begin += part.to(tl.int64) * (ROWS * HEADS * SHARING)
    tl.store(o + begin * WIDTH + cells, weighted / divisor[:, None], mask=used[:, None])
    # Where there was no key, top is -inf and so is the result.
    tl.store(lse + begin + place, top * 0.6931471805599453 + tl.log(divisor), mask=used)


@triton.jit
def fold(top, total, weighted, scores, values):
    """Take in a block that has a key in use, so that the new ``top`` is finite."""
    new_top = tl.maximum(top, tl.max(scores, 1))
    shrink = tl.exp2(top - new_top)
    weights = tl.exp2(scores - new_top[:, None])
    total = total * shrink + tl.sum(weights, 1)
    weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision="ieee")
    return new_top, total, weighted
