"""Attention of prompts in which every block of queries reads a list of blocks of keys.

The Sparse Frontier: Sparse Attention Trade-offs in Transformer LLMs. Nawrot et al., 2025, arXiv 2504.17768; MInference 1.0:
Jiang et al. 2024, arXiv 2407.02490, whose block-sparse pattern it computes. With ``L_n`` the listed blocks of block ``n`` of
``block_q`` queries, query ``t`` reads the keys

    j <= t,   j // block_k in L_n,   n = t // block_q

so the work follows ``sum_n |L_n|`` and not the square of the prompt's length. Which blocks are worth reading is not decided
here.

Single keys ("columns", the verticals of vertical-slash) have no place in a list of blocks, and neither have tiles that begin
between blocks. Who reads some gathers them and merges the two states (:func:`pallas_kernels.merge`).
"""

import jax
import jax.numpy as jnp

from pallas_kernels.arguments import check_integers, check_list, check_qkv, check_rank, check_scale, check_size
from pallas_kernels.backends import dispatch
from pallas_kernels.block_sparse_attention import hopper, tpu, triton, xla

BACKENDS = {
    "tpu": tpu.block_sparse_attention,
    "hopper": hopper.block_sparse_attention,
    "triton": triton.block_sparse_attention,
    "xla": xla.block_sparse_attention,
}


def block_sparse_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lengths: jax.Array,
    block_index: jax.Array,
    num_blocks: jax.Array,
    *,
    block_q: int,
    block_k: int,
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Causal attention of prompts to the blocks of keys that each block of queries lists.

    Prompts begin at slot 0. Query head ``h`` reads key/value head ``h // (Hq / Hkv)``, and has lists of its own. Differentiable
    in ``q``, ``k`` and ``v``.

    Args:
      q: ``[B, T, Hq, D]``.
      k: ``[B, S, Hkv, D]``, ``S`` at least ``T``.
      v: like ``k``.
      lengths: ``int32[B]``, tokens of each prompt, 0 to ``T``. What lies behind is not read, in ``q`` neither, and may be NaN.
      block_index: ``int32[B, Hq, N, M]``, the blocks that each of the ``N = ceil(T / block_q)`` blocks of queries reads, in
        ``0 .. ceil(S / block_k) - 1``, in any order. A block that is listed twice counts twice. Keys of a listed block that lie
        behind a query are not read by it.
      num_blocks: ``int32[B, Hq, N]``, how many of the list are read, 0 to ``M``; behind them ``block_index`` may have any
        number.
      block_q: queries of a block.
      block_k: keys of a block.
      scale: of the scores; by default ``D ** -0.5``.
      implementation: ``"tpu"``, ``"hopper"``, ``"triton"`` or ``"xla"``, or None for the first that fits the device and the
        arguments.

    Returns:
      ``o [B, T, Hq, D]`` and the natural log-sum-exp of the scores ``lse [B, T, Hq]``, float32 (float64 for float64 input).
      ``(0, -inf)`` behind ``lengths`` and for queries that read nothing.

    Raises:
      TypeError: types that differ or are not floats; lengths, lists or counts that are not integers.
      ValueError: shapes that do not fit; values out of range, where they are known.
      NotImplementedError: the implementation asked for does not take these arguments.
    """
    q, k, v = (jnp.asarray(array) for array in (q, k, v))
    check_rank("q", q, "B T Hq D")
    check_rank("k", k, "B S Hkv D")
    check_qkv(q, k, v)
    (batch, tokens, num_heads, width), capacity = q.shape, k.shape[1]
    if k.shape[0] != batch:
        raise ValueError(f"k must have the {batch} rows of q; got {k.shape[0]}")
    if not 1 <= tokens <= capacity:
        raise ValueError(f"q must have 1..{capacity} tokens, as many as k has slots at most; got {tokens}")
    check_integers("lengths", lengths, (batch,), 0, tokens)
    block_q, block_k = check_size("block_q", block_q), check_size("block_k", block_k)
    lists = (batch, num_heads, -(-tokens // block_q))
    block_index, num_blocks = check_list(
        ("block_index", "num_blocks"), block_index, num_blocks, lists, -(-capacity // block_k)
    )
    lengths = jnp.asarray(lengths, jnp.int32)
    arguments = (q, k, v, lengths, block_index, num_blocks, block_q, block_k, check_scale(scale, width))
    return dispatch("block_sparse_attention", BACKENDS, implementation, *arguments)
