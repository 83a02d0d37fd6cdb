# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""The Triton program of :mod:`pallas_kernels.listed_attention.triton`. Importing it needs the package ``triton``.

    grid: lists of a head x ranges x tiles of a list's rows; heads with lists; rows of the batch

A program has some query rows with one list, and a range of the keys of the list's blocks: all of them, laid one behind another
in the order of the list. It takes ``BLOCK`` of those at a time, whatever the size of the blocks that are listed: several small
blocks, or a part of a large one. Queries, keys and values are read where they are, and results written where the queries were.

FlashAttention-2: Dao 2023, arXiv 2307.08691, over lists. The running softmax begins at the lowest number there is and not at
minus infinity, since a row may be allowed no key of a block: then no difference of two infinities comes up.
"""

import triton
import triton.language as tl

from pallas_kernels.tiled_attention.triton_kernel import fold


@triton.jit
def attend_lists(
    q,  # rows of WIDTH
    k,
    v,
    index,  # int32[B, J, LISTS, MOST]
    count,  # int32[B, J, LISTS]
    length,  # int32[B]
    o,  # float32[RANGES, ...], rows as those of q
    lse,  # float32[RANGES, ...]
    SCALE: tl.constexpr,  # of the scores, for powers of two
    LISTS: tl.constexpr,  # of a head
    MOST: tl.constexpr,  # blocks of a list
    SHARING: tl.constexpr,  # heads with lists that read one head of keys
    Q_BATCH: tl.constexpr,  # rows of q from a row of the batch to the next
    Q_HEAD: tl.constexpr,  # ... from a head with lists
    Q_LIST: tl.constexpr,  # ... from a list
    Q_ROW: tl.constexpr,  # ... from a row of a list
    Q_ALL: tl.constexpr,  # rows of q
    K_BATCH: tl.constexpr,
    K_HEAD: tl.constexpr,
    K_KEY: tl.constexpr,
    ROWS: tl.constexpr,  # with one list
    TOKENS: tl.constexpr,  # of causal rows: row r of list n is token n * ROWS + r; 0 for rows that read what is in use
    LISTED: tl.constexpr,  # keys of a block of a list
    RANGES: tl.constexpr,
    RANGE: tl.constexpr,  # keys of a range
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,  # power of two
    BLOCK: tl.constexpr,  # keys at a time; power of two
):
    """Some rows, one range, one head."""
    TILES: tl.constexpr = (ROWS + TILE - 1) // TILE
    program = tl.program_id(0)
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    row = program % TILES * TILE + tl.arange(0, TILE)
    part = program // TILES % RANGES
    one = program // (TILES * RANGES)
    column = tl.arange(0, WIDTH)
    in_use = tl.load(length + batch)

    token = one * ROWS + row
    exists = row < ROWS
    reads = exists
    if TOKENS > 0:
        exists = exists & (token < TOKENS)
        reads = exists & (token < in_use)
    # Rows of q: 64 bits for where the list begins, 32 within it.
    begin = batch * Q_BATCH + one.to(tl.int64) * Q_LIST + head * Q_HEAD
    cells = (row * Q_ROW * WIDTH)[:, None] + column[None, :]
    queries = tl.load(q + begin * WIDTH + cells, mask=reads[:, None], other=0.0)

    lists = (batch * tl.num_programs(1) + head) * LISTS + one
    first = part * RANGE
    stop = tl.minimum(tl.load(count + lists) * LISTED, first + RANGE)
    keys = (batch * K_BATCH + head // SHARING * K_HEAD) * WIDTH
    key = tl.arange(0, BLOCK)

    top = tl.full([TILE], -3.4028234663852886e38, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    weighted = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(first, stop, BLOCK):
        place = start + key
        listed = place < stop
        block = tl.load(index + lists * MOST + place // LISTED, mask=listed, other=0)
        position = block * LISTED + place % LISTED
        used = listed & (position < in_use)
        at = keys + (position * (K_KEY * WIDTH))[:, None] + column[None, :]
        k_block = tl.load(k + at, mask=used[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(k_block), input_precision="ieee") * SCALE
        allowed = used[None, :]
        if TOKENS > 0:
            allowed = allowed & (position[None, :] <= token[:, None]) & reads[:, None]
        scores = tl.where(allowed, scores, float("-inf"))
        v_block = tl.load(v + at, mask=used[:, None], other=0.0)
        top, total, weighted = fold(top, total, weighted, scores, v_block)

    divisor = tl.where(total == 0.0, 1.0, total)
    begin += part.to(tl.int64) * Q_ALL
    tl.store(o + begin * WIDTH + cells, weighted / divisor[:, None], mask=exists[:, None])
    found = tl.where(total == 0.0, float("-inf"), top * 0.6931471805599453 + tl.log(divisor))
    tl.store(lse + begin + row * Q_ROW, found, mask=exists)
