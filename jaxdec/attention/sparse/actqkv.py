"""ActQKV: for each window of new tokens, one query that its unusual tokens speak in, and the blocks of the cache it asks for.

Activation-aware Probe-Query: Effective Key-Value Retrieval for Long-Context LLMs Inference. Xiao et al., 2025, arXiv
2502.13542, as the authors' code has it (github.com/MrXiaoaa/ActQKV). Of a window of ``c`` tokens, row ``Q_i`` holds the queries
of all heads of token ``i``, ``D = H E`` numbers. Per layer the mean and variance of each coordinate run along; ``N`` tokens
were seen before, ``m`` and ``v`` are those of the window:

    sigma2 <- (sigma2 (N - 1) + c v + (m - mu)^2 c N / (N + c)) / (N + c - 1)        mu <- (N mu + c m) / (N + c)
    delta_i = mean_j (Q_ij - mu_j)^2 / (sigma2_j + mean(sigma2) / 100)               activation bias
    p       = sum_i w_i Q_i                  w_i = delta_i / sum_i delta_i           probe query
    s_b     = cos(r_b, p)                                                            r_b: representative of block b

A block's representative is the mean of the ``representatives`` keys that received most attention while they were within the
last ``local`` tokens, per head; keys are not rotated in it, and all queries are rotated by one angle, that of ``distance``.
How many blocks a layer reads follows from how flat its scores are. Layers take their share of what the layers before left,
``R``, at first ``top_blocks`` for each of ``L`` layers:

    h   = -sum_b P_b ln P_b / ln n           P = softmax(s), n blocks                information density; 1 where n < 2
    k_l = round(R h_l / sum_{j >= l} h_j)    h_j: mean over the newest ``history`` windows; R <- R - k_l

within ``min(n, min_blocks)`` and ``min(n, 2 top_blocks)``; ``k_l = round(R / (L - l))`` until ``min_windows`` have been seen.

Where this differs from that code, which keeps one set of statistics for all layers and prompts in module globals:

- Statistics are kept per layer and row, and start anew with each prompt. They count tokens and not windows: with windows of
  one length the recurrence is the code's, and a decoded token weighs as much as one of a prompt.
- The bias is used from the window on before which ``warmup`` tokens were seen; before that ``p`` is the mean. The code waits
  for 1000 calls of any layer, longer than most prompts.
- Budgets follow densities as soon as ``min_windows`` windows had two blocks to choose from, while prompts are read too. The
  code waits for 100 samples of each layer, kept from prompt to prompt, and for the first decoded token.
- The query heads of a key/value head share their representative.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.typing import Array, Bool, Float, Int

PROBES = ("activation", "mean", "last", "max_norm")
FLOOR = 0.01  # of the mean variance, added to each


class QueryStatistics(struct.PyTreeNode):
    """Mean and variance of each coordinate of the queries of one layer, or of several, stacked.

    Attributes:
      mean: per row and coordinate, float32.
      variance: unbiased, float32; 0 before there are two tokens.
      count: tokens seen, at most the rule's ``memory``.
    """

    mean: Float[Array, "*layers B D"]
    variance: Float[Array, "*layers B D"]
    count: Int[Array, "*layers B"]

    @classmethod
    def create(cls, batch_size: int, width: int) -> "QueryStatistics":
        """Nothing seen yet."""
        zeros = jnp.zeros((batch_size, width), jnp.float32)
        return cls(zeros, zeros, jnp.zeros(batch_size, jnp.int32))


def update(
    statistics: QueryStatistics, queries: Float[Array, "B T D"], valid: Bool[Array, "B T"], memory: int
) -> QueryStatistics:
    """Take in the valid tokens of a window; rows without any stay as they are.

    Args:
      statistics: so far.
      queries: of the window, all heads of a token side by side. Those that are not valid may be NaN.
      valid: which of them count.
      memory: tokens that the past counts for at most.
    """
    new = valid.sum(axis=1)
    before, size = (number.astype(jnp.float32)[:, None] for number in (statistics.count, new))
    x = jnp.where(valid[..., None], queries, 0).astype(jnp.float32)
    mean = x.sum(axis=1) / jnp.maximum(size, 1)
    squares = jnp.where(valid[..., None], (x - mean[:, None]) ** 2, 0).sum(axis=1)
    total = jnp.maximum(before + size, 1)
    between = (mean - statistics.mean) ** 2 * before * size / total
    variance = (statistics.variance * jnp.maximum(before - 1, 0) + squares + between) / jnp.maximum(total - 1, 1)
    seen = (new > 0)[:, None]
    return QueryStatistics(
        mean=jnp.where(seen, (before * statistics.mean + size * mean) / total, statistics.mean),
        variance=jnp.where(seen, variance, statistics.variance),
        count=jnp.minimum(statistics.count + new, memory).astype(jnp.int32),
    )


def activation_bias(statistics: QueryStatistics, queries: Float[Array, "B T D"]) -> Float[Array, "B T"]:
    """``delta``: how far each query is from the mean, in variances, on average over its coordinates."""
    scale = statistics.variance + FLOOR * statistics.variance.mean(axis=1, keepdims=True)
    deviation = (queries.astype(jnp.float32) - statistics.mean[:, None]) ** 2
    return (deviation / jnp.where(scale > 0, scale, jnp.inf)[:, None]).mean(axis=2)


def cosine_scores(
    representatives: Float[Array, "B N D"], probe: Float[Array, "B H E"], num_blocks: Int[Array, "B"]
) -> Float[Array, "B N"]:
    """Cosine of the probe and each block's representative, repeated for the query heads of its head; 0 for a zero vector.

    Args:
      representatives: ``D = G E``. Those from ``num_blocks`` on may be NaN; they score ``-inf``.
      probe: one vector per query head.
      num_blocks: blocks of each row.
    """
    batch, num_heads, width = probe.shape
    num_kv_heads = representatives.shape[2] // width
    used = jnp.arange(representatives.shape[1]) < num_blocks[:, None]
    blocks = jnp.where(used[..., None], representatives, 0).astype(jnp.float32)
    summed = probe.astype(jnp.float32).reshape(batch, num_kv_heads, -1, width).sum(axis=2).reshape(batch, 1, -1)
    group = num_heads // num_kv_heads
    norms = jnp.sqrt(group * (blocks**2).sum(axis=2)) * jnp.sqrt((probe**2).sum(axis=(1, 2)))[:, None]
    return jnp.where(used, (blocks * summed).sum(axis=2) / jnp.where(norms > 0, norms, 1), -jnp.inf)


def information_density(scores: Float[Array, "B N"], num_blocks: Int[Array, "B"]) -> Float[Array, "B"]:
    """Entropy of the softmax of the scores, over that of equal ones: 0 to 1; 1 with fewer than two blocks.

    Args:
      scores: ``-inf`` from ``num_blocks`` on.
      num_blocks: blocks of each row.
    """
    several = num_blocks > 1
    safe = jnp.where(several[:, None], scores, 0)
    log_share = jax.nn.log_softmax(safe, axis=1)
    entropy = -jnp.where(jnp.isfinite(log_share), jnp.exp(log_share) * log_share, 0).sum(axis=1)
    return jnp.where(several, entropy / jnp.log(jnp.maximum(num_blocks, 2)), 1.0)


@dataclasses.dataclass(frozen=True)
class ActQKV:
    """Sizes of what is read, and how it is chosen. The defaults are the authors' for Llama-3-8B: 2048 tokens in all.

    Attributes:
      block_size: tokens of a block.
      sinks: first tokens, which are always read.
      local: newest tokens that are in no block. What is in no block is always read: up to ``local + block_size - 1`` tokens.
      top_blocks: blocks that a layer reads on average. One reads at most twice as many. With 0 only what is in no block
        is read.
      representatives: keys whose mean stands for a block.
      window: tokens of one forward pass at most, which share a probe; at most ``local``.
      probe: ``activation``; or, to compare with, ``mean``, ``last`` (the newest token's query), ``max_norm`` (the longest).
      dynamic: whether budgets follow densities; otherwise all layers read ``top_blocks``.
      min_blocks: blocks that a layer reads at least, where there are so many; None for the authors' share, 32 of 46.
      warmup: tokens seen before a window for the bias to be used in it.
      memory: tokens that the past counts for at most in the statistics.
      history: windows over which densities are averaged.
      min_windows: windows with two blocks or more before budgets follow densities.
      distance: position, seen from a key, at which queries ask for blocks; None for ``local``.
      temperature: of the softmax whose entropy is the density. Cosines lie close together, so that at 1 all are near 1.
    """

    block_size: int = 32
    sinks: int = 64
    local: int = 512
    top_blocks: int = 46
    representatives: int = 4
    window: int = 256
    probe: str = "activation"
    dynamic: bool = True
    min_blocks: int | None = None
    warmup: int = 256
    memory: int = 256_000
    history: int = 100
    min_windows: int = 8
    distance: int | None = None
    temperature: float = 1.0

    def __post_init__(self):
        for name in ("block_size", "window", "memory", "history", "min_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("top_blocks", "sinks", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 1 <= self.representatives <= self.block_size:
            raise ValueError(f"representatives must be in 1..block_size, {self.block_size}; got {self.representatives}")
        if self.local < self.window:
            raise ValueError(
                f"local must be at least window, {self.window}: a pass must not reach beyond it; got {self.local}"
            )
        if self.probe not in PROBES:
            raise ValueError(f"probe must be one of {', '.join(PROBES)}; got {self.probe!r}")
        if not 0 <= self.least <= self.top_blocks:
            raise ValueError(f"min_blocks must be in 0..top_blocks, {self.top_blocks}; got {self.min_blocks}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    @property
    def least(self) -> int:
        """Blocks that a layer reads at least, where there are so many."""
        return self.top_blocks * 32 // 46 if self.min_blocks is None else self.min_blocks

    @property
    def most(self) -> int:
        """Blocks that a layer reads at most."""
        return 2 * self.top_blocks

    def num_blocks(self, length: Int[Array, "B"]) -> Int[Array, "B"]:
        """Blocks of rows with so many committed tokens: what lies between the sinks and the local window, whole ones."""
        return jnp.maximum(length - self.sinks - self.local, 0) // self.block_size

    def weights(
        self, statistics: QueryStatistics, queries: Float[Array, "B T D"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """``w``, the share of each token in the probe: at least 0, 1 in all, or 0 in a row without valid tokens.

        Args:
          statistics: before the window.
          queries: of the window. Those that are not valid may be NaN.
          valid: which of them count.
        """
        queries = jnp.where(valid[..., None], queries, 0)
        index = jnp.arange(queries.shape[1])
        if self.probe == "last":
            return ((index == jnp.where(valid, index, -1).max(axis=1)[:, None]) & valid).astype(jnp.float32)
        even = valid.astype(jnp.float32)
        bias = even
        if self.probe == "max_norm":
            longest = jnp.argmax(jnp.where(valid, (queries**2).sum(axis=2), -1), axis=1)
            bias = even * (index == longest[:, None])
        if self.probe == "activation":
            new = update(statistics, queries, valid, self.memory)
            bias = jnp.where(valid, activation_bias(new, queries), 0)
            bias = jnp.where((statistics.count >= self.warmup)[:, None], bias, even)
            bias = jnp.where(bias.sum(axis=1, keepdims=True) > 0, bias, even)  # all queries are the mean
        return bias / jnp.maximum(bias.sum(axis=1, keepdims=True), jnp.finfo(jnp.float32).tiny)

    def probe_query(
        self, statistics: QueryStatistics, queries: Float[Array, "B T H E"], valid: Bool[Array, "B T"]
    ) -> Float[Array, "B H E"]:
        """``p``: the weighted sum of the queries, float32; see :meth:`weights`."""
        batch, num_new, num_heads, width = queries.shape
        flat = jnp.where(valid[:, :, None], queries.reshape(batch, num_new, -1), 0).astype(jnp.float32)
        weights = self.weights(statistics, flat, valid)
        return (weights[..., None] * flat).sum(axis=1).reshape(batch, num_heads, width)

    def density(self, scores: Float[Array, "B N"], num_blocks: Int[Array, "B"]) -> Float[Array, "B"]:
        """:func:`information_density` at the rule's temperature."""
        return information_density(scores / self.temperature, num_blocks)

    def allot(
        self,
        layer: int,
        remaining: Int[Array, "B"],
        densities: Float[Array, "B L"],
        known: Bool[Array, "B"],
        num_blocks: Int[Array, "B"],
    ) -> Int[Array, "B"]:
        """``k_l``: blocks that a layer reads; the caller takes them off ``remaining``.

        Args:
          layer: its number; the layers before have had theirs.
          remaining: blocks left for this layer and those behind it. Less than 0 where lower bounds took more than there was.
          densities: mean density of each layer.
          known: whether these are known well enough; rows where they are not share equally.
          num_blocks: blocks that there are.
        """
        num_layers = densities.shape[1]
        share = jnp.full(remaining.shape, 1 / (num_layers - layer), jnp.float32)
        if self.dynamic:
            rest = densities[:, layer:].sum(axis=1)
            share = jnp.where(known & (rest > 0), densities[:, layer] / jnp.where(rest > 0, rest, 1), share)
        wanted = jnp.round(remaining * share).astype(jnp.int32)
        return jnp.clip(wanted, jnp.minimum(num_blocks, self.least), jnp.minimum(num_blocks, self.most))
