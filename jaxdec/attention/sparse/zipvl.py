"""ZipVL: as many important tokens of a prompt, layer by layer, as hold most of the attention.

ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification. He et al., 2024, arXiv 2410.08584, first
version. Some probe queries ``P``, the last and random ones, stand for all. With their attention ``A`` (causal, mean over heads)

    a[j]      = sum over i in P of A[i, j]                    attention that token j receives
    p         = least p whose p largest a[j] sum to at least threshold * sum a
    s[j]      = a[j] / #{i in P: i >= j}                      per probe that can see it: early tokens are seen by more
    important = the p largest s[j]; the last token before all others

``p`` follows the layer and the text. The ``p`` tokens that are chosen by ``s`` may hold less attention than ``threshold``. One
choice serves the layer's heads: attention of the prompt runs among important tokens alone (``mask``; the rows of the others
are empty), and the cache keeps those at more bits (:meth:`jaxdec.cache.quantized.QuantizedCache.of_prompt`). Without the last
token among them the first new token would come from a row without attention, so it is forced (the paper does not say).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.attention.sparse.kv_quantization import BITS
from jaxdec.typing import Array, Bool, Float, Int, Key
from pallas_kernels.arguments import check_integers, check_qkv
from pallas_kernels.tiled_attention.xla import over_tiles


@dataclasses.dataclass(frozen=True)
class ZipVL:
    """The tokens that hold ``threshold`` of the attention of the probes.

    Attributes:
      threshold: more than 0, at most 1. With 1 all tokens are important that receive any attention.
      last_probes: last queries that are probes.
      random_probes: other queries that are, without repetition. One probe at least in all.
      by_received: choose by ``a`` instead of ``s``, which favours early tokens; what the paper compares with.
      ratio: share of the tokens that are important, whatever the attention; more than 0, at most 1. This is what ZipVL is
        compared with. None for the published rule.
    """

    threshold: float = 0.975
    last_probes: int = 64
    random_probes: int = 64
    ratio: float | None = None
    by_received: bool = False

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be more than 0 and at most 1; got {self.threshold}")
        for name in ("last_probes", "random_probes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.last_probes + self.random_probes < 1:
            raise ValueError("last_probes + random_probes must be at least 1; got 0")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be more than 0 and at most 1; got {self.ratio}")

    def check_tokens(self, num_tokens: int):
        """Raise ValueError if prompts padded to ``num_tokens`` have fewer tokens than there are probes."""
        num_probes = self.last_probes + self.random_probes
        if num_tokens < num_probes:
            raise ValueError(f"q must have at least as many tokens as there are probes, {num_probes}; got {num_tokens}")

    def probes(
        self, lengths: Int[Array, "B"], num_tokens: int, rng: Key[Array, "B"]
    ) -> tuple[Int[Array, "B P"], Bool[Array, "B P"]]:
        """Positions of the probes of each row, and whether each place is in use (a short row has fewer).

        Args:
          lengths: tokens of each prompt.
          num_tokens: that prompts are padded to.
          rng: a key per row.
        """
        position = jnp.arange(num_tokens)
        last = lengths[:, None] - self.last_probes + jnp.arange(self.last_probes)
        draw = jax.vmap(lambda key: jax.random.uniform(key, (num_tokens,)))(rng)
        draw = jnp.where(position < (lengths - self.last_probes)[:, None], draw, -1)
        top, random = jax.lax.top_k(draw, min(self.random_probes, num_tokens))
        return jnp.concatenate([jnp.maximum(last, 0), random], axis=1), jnp.concatenate([last >= 0, top >= 0], axis=1)

    def scores(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"], rng: Key[Array, "B"]
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        """Attention that each token receives from the probes, and that per probe that can see it; 0 behind ``lengths``.

        Args:
          q: queries, ``T == S``; those that are no probes are not read.
          k: keys. Rows begin at slot 0; what lies behind ``lengths`` is not read and may be NaN.
          lengths: tokens of each prompt.
          rng: a key per row.

        Raises:
          TypeError: types that are not floats or not the same, lengths that are no integers.
          ValueError: shapes that do not fit, lengths out of range (where they are known), fewer slots than probes.
        """
        check_qkv(q, k, k)
        if q.shape[:2] != k.shape[:2]:
            raise ValueError(f"k must be of the tokens of q, {list(q.shape[:2])}; got {list(k.shape[:2])}")
        self.check_tokens(q.shape[1])
        check_integers("lengths", lengths, q.shape[:1], low=0, high=q.shape[1])
        probes, used = self.probes(lengths, q.shape[1], rng)
        return self.scores_of(jnp.take_along_axis(q, probes[..., None, None], axis=1), probes, used, k, lengths)

    def scores_of(
        self,
        queries: Float[Array, "B P H E"],
        probes: Int[Array, "B P"],
        used: Bool[Array, "B P"],
        k: Float[Array, "B S G E"],
        lengths: Int[Array, "B"],
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        """:meth:`scores` from the queries of the probes alone, which :meth:`probes` names."""
        batch, _, num_heads, width = queries.shape
        num_tokens, group = k.shape[1], num_heads // k.shape[2]
        dtype = jnp.promote_types(queries.dtype, jnp.float32)
        position = jnp.arange(num_tokens)
        sees = used[..., None] & (position <= probes[..., None])  # [B, P, S]

        def of_head(index):
            row, head = index // num_heads, index % num_heads
            keys = jnp.where((position < lengths[row])[:, None], k[row, :, head // group], 0).astype(dtype)
            mine = jnp.where(used[row][:, None], queries[row, :, head], 0).astype(dtype)
            scores = jnp.dot(mine, keys.T, precision=jax.lax.Precision.HIGHEST) * width**-0.5
            weights = jax.nn.softmax(jnp.where(sees[row], scores, -jnp.inf), axis=-1)
            return jnp.where(sees[row], weights, 0).sum(axis=0)

        received = over_tiles(of_head, jnp.arange(batch * num_heads))
        received = received.reshape(batch, num_heads, num_tokens).mean(axis=1)
        return received, received / jnp.maximum(sees.sum(axis=1), 1)

    def important(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S G E"], lengths: Int[Array, "B"], rng: Key[Array, "B"]
    ) -> Bool[Array, "B S"]:
        """Which tokens are important, as many for each row as its attention asks for; see :meth:`scores`."""
        received, seen = self.scores(q, k, lengths, rng)
        return self.choose(received, seen, lengths)

    def choose(
        self, received: Float[Array, "B S"], seen: Float[Array, "B S"], lengths: Int[Array, "B"]
    ) -> Bool[Array, "B S"]:
        """The important tokens by both scores: the first says how many, the second which."""
        ordered = -jnp.sort(-received, axis=1)
        before = jnp.cumsum(ordered, axis=1) - ordered
        enough = before < self.threshold * received.sum(axis=1, keepdims=True)
        # All that there is: what rounds away beside the sum counts as well.
        count = ((ordered > 0) if self.threshold == 1 else enough & (ordered > 0)).sum(axis=1)
        ranked_by = received if self.by_received else seen
        if self.ratio is not None:
            count = jnp.asarray(self.counts(received.shape[1]), count.dtype)[lengths]
        position, end = jnp.arange(received.shape[1]), lengths[:, None]
        ranked = jnp.where(position < end, jnp.where(position == end - 1, jnp.inf, ranked_by), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-ranked, axis=1), axis=1)
        return (rank < count[:, None]) & (position < end)

    def counts(self, num_tokens: int) -> np.ndarray:
        """By length up to ``num_tokens``: how many tokens are important where ``ratio`` says so, rounded up; one at least.

        Raises:
          ValueError: no ratio.
        """
        if self.ratio is None:
            raise ValueError("ratio must be a number where important tokens are counted before they are seen; got None")
        lengths = np.arange(num_tokens + 1)
        return np.maximum(np.ceil(np.round(self.ratio * lengths, 9)), lengths > 0).astype(int)

    def sparsity(self, important: Bool[Array, "B S"], lengths: Int[Array, "B"]) -> Float[Array, "B"]:
        """Share of the causal cells that attention among important tokens does not compute; 0 for prompts without tokens."""
        count, length = important.sum(axis=1).astype(jnp.float32), lengths.astype(jnp.float32)
        return 1 - count * (count + 1) / jnp.maximum(length * (length + 1), 1) - (length == 0)

    def mask(self, important: Bool[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
        """Reference: what the queries of the prompt read; nothing in the rows of unimportant tokens."""
        causal = jnp.tril(jnp.ones((important.shape[1],) * 2, bool))
        return (causal & important[:, :, None] & important[:, None])[:, None]


@dataclasses.dataclass(frozen=True)
class ZipVLCache(ZipVL):
    """Prompts in two precisions: important tokens at more bits than the others, the newest tokens as they are.

    Attributes:
      bits: of important tokens, and of what follows the prompt once it leaves the window.
      coarse_bits: of all others; fewer.
      coarse_key_bits: of their keys, where these differ; at most ``bits``. The published rule has none.
      window: newest tokens in full precision, at least.
      fitted: ranges of least squared error instead of those from the least to the greatest value, which the paper has.
    """

    bits: int = 4
    coarse_bits: int = 2
    window: int = 100
    fitted: bool = True
    coarse_key_bits: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.bits not in BITS or self.coarse_bits not in BITS or self.coarse_bits >= self.bits:
            raise ValueError(
                f"bits and coarse_bits must be of {', '.join(map(str, BITS))}, coarse_bits fewer; "
                f"got {self.bits} and {self.coarse_bits}"
            )
        if self.coarse_key_bits is not None and (self.coarse_key_bits not in BITS or self.coarse_key_bits > self.bits):
            raise ValueError(
                f"coarse_key_bits must be one of {', '.join(map(str, BITS))}, at most bits, {self.bits}; "
                f"got {self.coarse_key_bits}"
            )
        if self.window < 0:
            raise ValueError(f"window must be at least 0 tokens; got {self.window}")

    def rooms(self, num_tokens: int) -> tuple[int, int]:
        """Tokens of prompts of at most ``num_tokens`` that ``bits`` and ``coarse_bits`` must have room for.

        With ``ratio`` each has room for its share; else how many are important is not known when shapes are chosen. What stays
        in the window needs neither.
        """
        fine = coarse = old = max(num_tokens - self.window, 0)
        if self.ratio is not None:
            counts = self.counts(num_tokens)
            fine, coarse = counts.max(), (np.arange(num_tokens + 1) - counts).max()
        return min(int(fine), old), max(min(int(coarse), old), 1)
