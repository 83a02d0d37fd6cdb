"""Attention of a few new tokens in each row to the row's cache.

Decoding reads a long cache for few queries, so what matters is to read it once, with enough of the machine at work: the cache
is cut into ranges whose results are merged (Flash-Decoding: Dao et al. 2023, https://pytorch.org/blog/flash-decoding; the
suffix of Hydragen, arXiv 2402.05099).

    o, lse = merge(range 1, ..., range n of the committed slots, new tokens among themselves)

A draft tree is verified by letting each new token see its ancestors (SpecInfer: Miao et al. 2024, arXiv 2305.09781).

How many ranges there are, and the order in which they are added up, follow from the cache's capacity or from ``num_splits``,
never from the batch: what a row gets does not depend on the rows beside it.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import check_integers, check_qkv, check_rank, check_scale
from pallas_kernels.backends import dispatch
from pallas_kernels.decode_attention import hopper, tpu, triton, xla
from pallas_kernels.decode_attention.new_tokens import attend_new_tokens
from pallas_kernels.decode_attention.pages import backends_for_pages, check_page_table, new_entries
from pallas_kernels.merge.xla import merge

BACKENDS = {
    "tpu": tpu.attend_committed,
    "hopper": hopper.attend_committed,
    "triton": triton.attend_committed,
    "xla": xla.attend_committed,
}


def decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    *,
    visible: jax.Array | None = None,
    page_table: jax.Array | None = None,
    num_splits: int | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of new tokens to the committed slots of their row and to each other.

    The keys and values of a row's ``T`` new tokens lie in its slots ``lengths[b] .. lengths[b] + T - 1``. Query head ``h``
    reads key/value head ``h // (Hq / Hkv)``. Differentiable in ``q``, ``k`` and ``v``.

    Args:
      q: ``[B, T, Hq, D]``.
      k: ``[B, S, Hkv, D]``; with a page table ``[N, P, Hkv, D]``, a pool of pages of ``P`` slots.
      v: like ``k``.
      lengths: ``int32[B]``, committed slots, at most ``S - T`` (checked where known; otherwise the caller's to keep). What
        lies behind the new tokens is not read and may be NaN.
      visible: ``bool[B, T, T]``, whether new token ``t`` sees new token ``u``; by default if ``u <= t``.
      page_table: ``int32[B, M]``, the pages of each row in the order of its ``S = M P`` slots. Entries behind the pages in use
        may be any number, and pages that no row uses are not read and may hold NaN.
      num_splits: ranges of the committed slots, 1 to ``S``; by default a number that follows from ``S``. Ranges are cut at
        whole blocks, so there may be fewer.
      scale: of the scores; by default ``D ** -0.5``.
      implementation: ``"tpu"``, ``"hopper"``, ``"triton"`` or ``"xla"``, or None for the first that fits the device and the
        arguments.

    Returns:
      ``o [B, T, Hq, D]`` and the natural log-sum-exp of the scores ``lse [B, T, Hq]``, float32 (float64 for float64 input).
      ``(0, -inf)`` for tokens that see nothing.

    Raises:
      TypeError: types that differ or are not floats; lengths that are not integers; ``visible`` that is not bool.
      ValueError: shapes that do not fit; values out of range, where they are known.
      NotImplementedError: the implementation asked for does not take these arguments.
    """
    q, k, v = (jnp.asarray(array) for array in (q, k, v))
    check_rank("q", q, "B T Hq D")
    check_rank("k", k, "B S Hkv D")
    check_qkv(q, k, v)
    batch, tokens = q.shape[:2]
    capacity = k.shape[1]
    if page_table is not None:
        check_rank("page_table", page_table, "B M")
        capacity *= jnp.shape(page_table)[1]
    elif k.shape[0] != batch:
        raise ValueError(f"k must have the {batch} rows of q; got {k.shape[0]}")
    if not 1 <= tokens <= capacity:
        raise ValueError(f"q must have 1..{capacity} new tokens, as many as a row has slots at most; got {tokens}")
    check_integers("lengths", lengths, (batch,), 0, capacity - tokens)
    if visible is None:
        visible = jnp.broadcast_to(jnp.tril(jnp.ones((tokens, tokens), bool)), (batch, tokens, tokens))
    if jnp.result_type(visible) != jnp.bool_:
        raise TypeError(f"visible must be bool; got {jnp.result_type(visible)}")
    if jnp.shape(visible) != (batch, tokens, tokens):
        raise ValueError(f"visible must have shape {[batch, tokens, tokens]}; got {list(jnp.shape(visible))}")
    if num_splits is not None and (isinstance(num_splits, bool) or not 1 <= int(num_splits) <= capacity):
        raise ValueError(f"num_splits must be None or in 1..{capacity}; got {num_splits}")
    scale = check_scale(scale, q.shape[-1])
    lengths, visible = jnp.asarray(lengths, jnp.int32), jnp.asarray(visible)
    if page_table is None:
        committed = dispatch("decode_attention", BACKENDS, implementation, q, k, v, lengths, num_splits, scale)
    else:
        table = check_page_table(page_table, k.shape[:2], lengths, tokens)
        backends = backends_for_pages(BACKENDS)
        committed = dispatch("decode_attention", backends, implementation, q, k, v, lengths, num_splits, scale, table)
        k, v = (new_entries(pool, table, lengths, tokens) for pool in (k, v))
        lengths = jnp.zeros_like(lengths)  # the new tokens are now all there is
    return merge([committed, attend_new_tokens(q, k, v, lengths, visible, scale)])
