"""Attention of a few new tokens in each row to the pages of the row's cache that are chosen for each.

Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference. Tang et al., 2024, arXiv 2406.10774, of which this is
the part that reads: with ``L`` the pages of ``P`` slots that are listed for a token and a head, it reads the slots

    s < length,   s // P in L

whatever the capacity. Which pages are worth reading is not decided here, and neither is what lies behind them: the new tokens
among themselves, and the page that is being filled if it is not listed. That is a state of its own, for
:func:`pallas_kernels.merge`.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import check_integers, check_list, check_qkv, check_rank, check_scale, check_size
from pallas_kernels.backends import dispatch
from pallas_kernels.sparse_decode_attention import hopper, tpu, triton, xla

BACKENDS = {
    "tpu": tpu.sparse_decode_attention,
    "hopper": hopper.sparse_decode_attention,
    "triton": triton.sparse_decode_attention,
    "xla": xla.sparse_decode_attention,
}


def sparse_decode_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    page_index: jax.Array,
    num_pages: jax.Array,
    *,
    page_size: int,
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of new tokens to the committed slots in the pages that are listed for each token and chooser.

    A chooser is a group of ``Hq / C`` neighbouring query heads with one list: all heads of a key/value head (``C = Hkv``), or
    fewer, down to each for itself (``C = Hq``). Query head ``h`` reads key/value head ``h // (Hq / Hkv)``. Differentiable in
    ``q``, ``k`` and ``v``.

    Args:
      q: ``[B, T, Hq, D]``.
      k: ``[B, Hkv, S, D]``, the slots of a head one after another.
      v: like ``k``.
      lengths: ``int32[B]``, committed slots, 0 to ``S``. What lies behind is not read and may be NaN.
      page_index: ``int32[B, C, T, M]``, pages in ``0 .. S / page_size - 1``, in any order. A page that is listed twice counts
        twice.
      num_pages: ``int32[B, C, T]``, how many of the list are read, 0 to ``M``; behind them ``page_index`` may have any number.
      page_size: slots of a page; divides ``S``.
      scale: of the scores; by default ``D ** -0.5``.
      implementation: ``"tpu"``, ``"hopper"``, ``"triton"`` or ``"xla"``, or None for the first that fits the device and the
        arguments.

    Returns:
      ``o [B, T, Hq, D]`` and the natural log-sum-exp of the scores ``lse [B, T, Hq]``, float32 (float64 for float64 input).
      ``(0, -inf)`` for tokens that read nothing.

    Raises:
      TypeError: types that differ or are not floats; lengths, lists or counts that are not integers.
      ValueError: shapes that do not fit; values out of range, where they are known.
      NotImplementedError: the implementation asked for does not take these arguments.
    """
    q, k, v = (jnp.asarray(array) for array in (q, k, v))
    check_rank("q", q, "B T Hq D")
    check_rank("k", k, "B Hkv S D")
    check_qkv(q, k, v, heads=1)
    (batch, tokens, num_heads, width), (num_kv_heads, capacity) = q.shape, k.shape[1:3]
    if k.shape[0] != batch:
        raise ValueError(f"k must have the {batch} rows of q; got {k.shape[0]}")
    if not tokens:
        raise ValueError(f"q must have at least one new token; got {list(q.shape)}")
    check_integers("lengths", lengths, (batch,), 0, capacity)
    page_size = check_size("page_size", page_size)
    if capacity % page_size:
        raise ValueError(f"page_size must divide k's {capacity} slots; got {page_size}")
    check_rank("page_index", page_index, "B C T M")
    choosers = jnp.shape(page_index)[1]
    if choosers == 0 or num_heads % choosers or choosers % num_kv_heads:
        raise ValueError(
            f"page_index must have lists for {num_kv_heads} key/value heads, {num_heads} query heads, or groups between; "
            f"got {choosers}"
        )
    lists = (batch, choosers, tokens)
    page_index, num_pages = check_list(("page_index", "num_pages"), page_index, num_pages, lists, capacity // page_size)
    lengths = jnp.asarray(lengths, jnp.int32)
    arguments = (q, k, v, lengths, page_index, num_pages, page_size, check_scale(scale, width))
    return dispatch("sparse_decode_attention", BACKENDS, implementation, *arguments)
