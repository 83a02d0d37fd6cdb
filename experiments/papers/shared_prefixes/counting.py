"""Attention in plain NumPy, float64, that notes every key and value it reads: the count that the formula is held against."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Store:
    """Keys and values ``[tokens, G, E]`` that count what is read of them, in bytes."""

    keys: np.ndarray
    values: np.ndarray
    bytes_read: int = 0

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """All of it, once."""
        self.bytes_read += self.keys.nbytes + self.values.nbytes
        return self.keys.astype(np.float64), self.values.astype(np.float64)


def state(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``o [N, H, E]`` and ``lse [N, H]`` of queries ``[N, H, E]``, all of which see all keys."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(array, group, axis=1) for array in (keys, values))
    scores = np.einsum("nhe,phe->nhp", queries, keys) * queries.shape[-1] ** -0.5
    lse = np.logaddexp.reduce(scores, axis=-1)
    return np.einsum("nhp,phe->nhe", np.exp(scores - lse[..., None]), values), lse


def count(batch: int, prefix: int, suffix: int, sizes: tuple[int, int, int], seed: int = 0) -> dict[str, float]:
    """Attend both ways.

    Args:
      batch: rows.
      prefix: tokens that they share.
      suffix: tokens of each row's own.
      sizes: query heads, key/value heads, width of a head.
      seed: of the entries.

    Returns:
      ``copied`` and ``shared``: bytes read; ``difference``: the largest between the two outputs.
    """
    num_heads, num_kv_heads, width = sizes
    rng = np.random.default_rng(seed)

    def entries(tokens: int) -> tuple[np.ndarray, np.ndarray]:
        first, second = rng.standard_normal((2, tokens, num_kv_heads, width), np.float32)
        return first, second

    queries = rng.standard_normal((batch, num_heads, width))
    common, own = entries(prefix), [entries(suffix) for _ in range(batch)]
    rows = [Store(np.concatenate([common[0], keys]), np.concatenate([common[1], values])) for keys, values in own]
    alone = np.concatenate([state(query[None], *row.read())[0] for query, row in zip(queries, rows)])

    root, ends = Store(*common), [Store(*mine) for mine in own]
    o_root, lse_root = state(queries, *root.read())
    parts = [state(query[None], *end.read()) for query, end in zip(queries, ends)]
    o_own, lse_own = (np.concatenate(side) for side in zip(*parts))
    lse = np.logaddexp(lse_root, lse_own)
    merged = np.exp(lse_root - lse)[..., None] * o_root + np.exp(lse_own - lse)[..., None] * o_own
    return {
        "copied": sum(row.bytes_read for row in rows),
        "shared": root.bytes_read + sum(end.bytes_read for end in ends),
        "difference": float(np.abs(merged - alone).max()),
    }
