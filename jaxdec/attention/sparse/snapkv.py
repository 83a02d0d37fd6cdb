"""SnapKV: after the prompt, keep the tokens that the last queries look at, and forget the others.

SnapKV: LLM Knows What You are Looking for Before Generation. Li et al., 2024, arXiv 2404.14469, as Nawrot et al. 2025 (arXiv
2504.17768) run it. With the last ``w`` queries of a prompt of ``L`` tokens and the query heads ``h`` of a key/value head,

    A_h      = softmax(Q_h[L - w:] K^T / sqrt(E))                     causal
    score[j] = avgpool(sum over i of the mean over h of A_h[i, j])    ``kernel`` wide, zeros beyond both ends
    kept     = the ``capacity`` largest scores; the first ``sinks`` and the last ``local`` tokens before all others

per key/value head. Kept tokens keep their positions: their keys are rotated already.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Bool, Float, Int
from pallas_kernels.arguments import check_integers, check_qkv
from pallas_kernels.tiled_attention.xla import over_tiles


@dataclasses.dataclass(frozen=True)
class SnapKV:
    """Which tokens of a prompt each key/value head keeps.

    Attributes:
      capacity: tokens kept per key/value head, more than ``sinks + local``. A shorter prompt is kept whole.
      window: last queries that are scored; all of a prompt that is not longer. At least 1.
      kernel: tokens that scores are averaged over, odd.
      sinks: first tokens that are always kept.
      local: last tokens that are always kept.
    """

    capacity: int
    window: int = 256
    kernel: int = 21
    sinks: int = 4
    local: int = 128

    def __post_init__(self):
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1, got {self.kernel}")
        for name in ("sinks", "local"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.capacity <= self.sinks + self.local:
            raise ValueError(
                f"capacity must be more than sinks + local, {self.sinks + self.local}; got {self.capacity}"
            )

    def scores(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B G S"]:
        """Scores of all tokens per key/value head, float32 at least; 0 behind ``lengths``.

        Args:
          q: queries, ``T == S``; those before the last ``window`` of a row are not read.
          k: keys. Rows begin at slot 0; what lies behind ``lengths`` is not read and may be NaN.
          lengths: tokens of each prompt.

        Raises:
          TypeError: types that are not floats or not the same, lengths that are no integers.
          ValueError: shapes that do not fit, lengths out of range (where they are known), not more slots than ``window``.
        """
        check_qkv(q, k, k)
        if q.shape[:2] != k.shape[:2]:
            raise ValueError(f"k must be of the tokens of q, {list(q.shape[:2])}; got {list(k.shape[:2])}")
        self.check_tokens(q.shape[1])
        check_integers("lengths", lengths, q.shape[:1], low=0, high=q.shape[1])
        at = jnp.maximum(self.query_positions(lengths), 0)
        return self.scores_of(jnp.take_along_axis(q, at[..., None, None], axis=1), k, lengths)

    def check_tokens(self, num_tokens: int):
        """Raise ValueError if prompts padded to ``num_tokens`` have no room for more tokens than ``window``."""
        if num_tokens <= self.window:
            raise ValueError(f"q must have more tokens than window, {self.window}; got {num_tokens}")

    def query_positions(self, lengths: Int[Array, "B"]) -> Int[Array, "B W"]:
        """Positions of the queries that are scored; negative where a row has fewer."""
        return lengths[:, None] - self.window + jnp.arange(self.window)

    def scores_of(
        self, queries: Float[Array, "B W H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B G S"]:
        """:meth:`scores` from the queries at :meth:`query_positions` alone; what stands in those a row lacks is not read."""
        weights = last_query_attention(queries, k, lengths, lambda a: a.mean(axis=0).sum(axis=0))
        return average_pool(weights, self.kernel)

    def keep(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]
    ) -> Bool[Array, "B G S"]:
        """Which tokens are kept: ``min(capacity, lengths[b])`` of each key/value head; see :meth:`scores`."""
        return self.choose(self.scores(q, k, lengths), lengths)

    def choose(self, scores: Float[Array, "B G S"], lengths: Int[Array, "B"]) -> Bool[Array, "B G S"]:
        """Which tokens are kept, by their scores."""
        return largest(forced(scores, lengths, self.sinks, self.local), self.capacity)


def last_query_attention(
    last_queries: Float[Array, "B W H E"],
    k: Float[Array, "B S G E"],
    lengths: Int[Array, "B"],
    reduce: Callable[[Array], Array],
) -> Float[Array, "B G S"]:
    """Attention weights of the last ``W`` queries of each row, ``[H / G, W, S]`` reduced to ``[S]`` per head.

    Queries that a short row does not have are not read and weigh 0.
    """
    window, num_heads, width = last_queries.shape[1:]
    batch, num_tokens, num_kv_heads, _ = k.shape
    group = num_heads // num_kv_heads
    dtype = jnp.promote_types(last_queries.dtype, jnp.float32)
    position = jnp.arange(num_tokens)

    def of_head(index):
        row, head = index // num_kv_heads, index % num_kv_heads
        keys = jnp.where((position < lengths[row])[:, None], k[row, :, head], 0).astype(dtype)
        at = lengths[row] - window + jnp.arange(window)
        queries = last_queries[row][:, head * group + jnp.arange(group)].swapaxes(0, 1)
        queries = jnp.where((at >= 0)[:, None], queries, 0).astype(dtype)
        scores = jnp.dot(queries.reshape(-1, width), keys.T, precision=jax.lax.Precision.HIGHEST) * width**-0.5
        causal = position <= at[:, None]
        weights = jax.nn.softmax(jnp.where(causal, scores.reshape(group, window, -1), -jnp.inf), axis=-1)
        return reduce(jnp.where(causal, weights, 0))

    scores = over_tiles(of_head, jnp.arange(batch * num_kv_heads))
    return scores.reshape(batch, num_kv_heads, num_tokens)


def average_pool(scores: Float[Array, "B G S"], kernel: int) -> Float[Array, "B G S"]:
    """Means over ``kernel`` neighbours, with zeros beyond the ends."""
    padded = jnp.pad(scores, ((0, 0), (0, 0), (kernel // 2, kernel // 2)))
    return sum((padded[..., i : i + scores.shape[2]] for i in range(kernel)), jnp.zeros_like(scores)) / kernel


def forced(scores: Float[Array, "B G S"], lengths: Int[Array, "B"], sinks: int, local: int) -> Float[Array, "B G S"]:
    """Scores for ranking: infinite for the first ``sinks`` and last ``local`` tokens, minus infinity behind the row."""
    position, end = jnp.arange(scores.shape[2]), lengths[:, None, None]
    always = (position < sinks) | (position >= end - local)
    return jnp.where(position < end, jnp.where(always, jnp.inf, scores), -jnp.inf)


def largest(scores: Float[Array, "B G S"], count: int) -> Bool[Array, "B G S"]:
    """Where the ``count`` largest scores of the last axis lie; of equals the first. Minus infinity is never among them."""
    top, index = jax.lax.top_k(scores, min(count, scores.shape[-1]))
    chosen = jnp.put_along_axis(jnp.zeros(scores.shape, bool), index, top > -jnp.inf, axis=-1, inplace=False)
    return chosen
