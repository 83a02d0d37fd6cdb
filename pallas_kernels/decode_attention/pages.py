"""Caches in pages of one pool (PagedAttention: Kwon et al. 2023, arXiv 2309.06180): checks, and what all backends share."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.arguments import check_integers, concrete

TAKE_PAGES = ("tpu", "xla")


def check_page_table(page_table: Any, pool: tuple[int, ...], lengths: jax.Array, tokens: int) -> jax.Array:
    """Check a table, and return it with all entries within the pool.

    Args:
      page_table: ``int[B, M]``; what lies behind the pages in use may be any number.
      pool: number of pages, and slots of each.
      lengths: ``int[B]``, committed slots.
      tokens: new ones behind them.

    Raises:
      TypeError: not of an integer type.
      ValueError: another number of rows, or, where values are known, a page in use that is not in the pool.
    """
    check_integers("page_table", page_table, (lengths.shape[0], jnp.shape(page_table)[1]), low=np.iinfo(np.int64).min)
    num_pages, page_size = pool
    table, known = concrete(page_table), concrete(lengths)
    if table is not None and known is not None:
        in_use = np.arange(table.shape[1]) * page_size < known[:, None] + tokens
        wrong = table[in_use & ((table < 0) | (table >= num_pages))]
        if wrong.size:
            raise ValueError(f"page_table must have pages in 0..{num_pages - 1} where a row has tokens; got {wrong[0]}")
    return jnp.clip(jnp.asarray(page_table, jnp.int32), 0, num_pages - 1)


def backends_for_pages(backends: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The same backends, of which those that take no pages refuse."""
    return {name: backend if name in TAKE_PAGES else _refuse for name, backend in backends.items()}


def _refuse(*arguments: Any):
    raise NotImplementedError("takes no pages")


def new_entries(pool: jax.Array, page_table: jax.Array, lengths: jax.Array, tokens: int) -> jax.Array:
    """Entries of the new tokens, ``[B, T, Hkv, D]``: those of slots ``lengths[b] .. lengths[b] + T - 1``."""
    slots = lengths[:, None] + jnp.arange(tokens)
    pages = jnp.take_along_axis(page_table, slots // pool.shape[1], axis=1)
    return pool[pages, slots % pool.shape[1]]
