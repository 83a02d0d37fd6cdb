"""Ada-SnapKV: SnapKV with a budget that key/value heads share, so that heads that look at more tokens keep more.

Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation. Feng et al., 2024, arXiv 2407.11550, as Nawrot et al. 2025
(arXiv 2504.17768) run it. With ``A_h`` of the last ``w`` queries as in SnapKV,

    score[g, j] = avgpool(max over i and h of group g of A_h[i, j])
    first       = max(floor(min_ratio capacity), sinks + local)       tokens of each head, by its own scores
    then        = the (capacity - first) G largest scores of what is left, over all heads together

so that the heads of a row keep ``G min(capacity, L)`` tokens in total, exactly, and each at least ``min(first, L)``.
"""

import dataclasses

import jax.numpy as jnp

from jaxdec.attention.sparse.snapkv import SnapKV, average_pool, forced, largest, last_query_attention
from jaxdec.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class AdaSnapKV(SnapKV):
    """Which tokens of a prompt each key/value head keeps; ``capacity`` is the mean over heads.

    Attributes:
      min_ratio: share of ``capacity`` that every head gets, 0 to 1.
    """

    min_ratio: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.min_ratio <= 1:
            raise ValueError(f"min_ratio must be in 0..1, got {self.min_ratio}")

    @property
    def minimum(self) -> int:
        """Tokens that every head gets."""
        return max(int(self.min_ratio * self.capacity), self.sinks + self.local)

    def scores_of(
        self, queries: Float[Array, "B W H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B G S"]:
        """Scores of all tokens per key/value head; see :meth:`SnapKV.scores_of`."""
        weights = last_query_attention(queries, k, lengths, lambda a: a.max(axis=(0, 1)))
        return average_pool(weights, self.kernel)

    def choose(self, scores: Float[Array, "B G S"], lengths: Int[Array, "B"]) -> Bool[Array, "B G S"]:
        """Which tokens are kept, by their scores: ``G min(capacity, lengths[b])`` of a row."""
        ranked = forced(scores, lengths, self.sinks, self.local)
        first = largest(ranked, self.minimum)
        left = jnp.where(first, -jnp.inf, ranked)
        batch, num_kv_heads, num_tokens = left.shape
        rest = largest(left.reshape(batch, 1, -1), (self.capacity - self.minimum) * num_kv_heads)
        # A row may have fewer tokens than every head is to get: it keeps them all, and no head more than it has.
        return first | rest.reshape(batch, num_kv_heads, num_tokens)
