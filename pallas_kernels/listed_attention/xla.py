"""A tile of query rows against the blocks of keys of its list, in jax: some 512 gathered keys at a time.

Nothing here has a batch dimension, as in :mod:`pallas_kernels.tiled_attention.xla`: callers loop over tiles. Where tiles run
one after the other, on processors, the work follows the lists: what lies behind ``count`` is not computed. Elsewhere it follows
their width.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.tiled_attention.softmax_state import SoftmaxState, empty, finish, fold, precision_of

KEYS_AT_A_TIME = 512


def attend_list(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    count: jax.Array,
    length: jax.Array,
    *,
    scale: float,
    offset: jax.Array | int = 0,
    first: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of rows to the keys of listed blocks.

    Args:
      q: ``[R, D]``; may be NaN in causal rows from ``length`` on.
      k: ``[Z, P, D]``, blocks of ``P`` keys. What is not read may be NaN.
      v: like ``k``.
      index: ``int[M]``, the blocks of the list; block ``i`` is ``k[offset + i]`` and has the positions ``i P .. i P + P - 1``.
      count: how many of them are read.
      length: keys with positions before it are in use.
      scale: of the scores.
      offset: block of ``k`` with position 0.
      first: position of the first row, for causal tiles: row ``r`` reads positions up to ``first + r``, and nothing if it lies
        behind ``length`` itself. None for rows that read whatever is in use.

    Returns:
      ``o [R, D]`` and ``lse [R]``, float32 at least.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    product_type = dtype if jax.default_backend() == "cpu" else q.dtype  # products of two-byte floats are slow there
    (rows, width), block = q.shape, k.shape[1]
    at_a_time = even_pieces(index.shape[0], max(KEYS_AT_A_TIME // block, 1))
    index = jnp.pad(index, (0, -index.shape[0] % at_a_time)).reshape(-1, at_a_time)
    queries, row = q.astype(product_type), None
    if first is not None:
        row = (first + jnp.arange(rows))[:, None]
        queries = jnp.where(row < length, queries, 0)  # 0 * NaN is NaN, in the gradient too

    def take_in(state: SoftmaxState, start, blocks) -> SoftmaxState:
        listed = start + jnp.arange(at_a_time) < count
        blocks = jnp.where(listed, blocks, 0)
        position = (blocks[:, None] * block + jnp.arange(block)).reshape(-1)
        used = jnp.repeat(listed, block) & (position < length)

        def read(side):
            part = side.at[offset + blocks].get(mode="promise_in_bounds").reshape(-1, width)
            return jnp.where(used[:, None], part, 0).astype(product_type)

        scores = scale * jnp.dot(queries, read(k).T, preferred_element_type=dtype, precision=precision_of(product_type))
        allowed = used if row is None else used & (position <= row) & (row < length)
        return fold(state, jnp.where(allowed, scores, -jnp.inf), read(v))

    def step(state: SoftmaxState, part) -> tuple[SoftmaxState, None]:
        start, blocks = part
        return jax.lax.cond(start < count, lambda s: take_in(s, start, blocks), lambda s: s, state), None

    starts = at_a_time * jnp.arange(index.shape[0])
    state, _ = jax.lax.scan(step, empty(rows, width, dtype), (starts, index))
    o, lse = finish(state)
    return o, lse[:, 0]


def even_pieces(count: int, most: int) -> int:
    """Length of equal pieces that ``count`` is cut into, at most ``most``: 17 by at most 8 is 6, 6 and 5, and not 8, 8 and 1.

    The last piece is filled up, and what it is filled up with is computed.
    """
    return -(-count // max(-(-count // most), 1))
