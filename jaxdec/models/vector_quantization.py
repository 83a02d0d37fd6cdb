"""Codebooks that learn from what falls to their keys, by moving averages or k-means, without gradients or labels.

The moving averages are those of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1), as the Discrete Key-Value
Bottleneck uses them (Traeuble et al. 2023, arXiv 2207.11240). Of a batch of heads ``h_i``, with ``b_j`` of them nearest to key
``j`` of a codebook,

    n_j <- d n_j + (1 - d) b_j          s_j <- d s_j + (1 - d) sum_{i nearest to j} h_i
    k_j <- s_j / m_j                    m_j = (n_j + e) / (sum_l n_l + K e) sum_l n_l

Keys that little falls to, ``n_j < T`` with ``T = dead_below N / K`` for ``N`` heads a batch, move to a head drawn from it.

Two things differ from the authors' code, where counts and sums are left as they are when a key is drawn and after k-means: the
next update then divides what belongs to another key by it. Here a key without a history (``n = 0``: at the start, and the empty
clusters of k-means) and a key that moves count as ``T`` heads at their own place (as one head if ``T`` is 0), and k-means sets
counts and sums too.

Letters: ``C`` codebooks, ``K`` keys of each, ``E`` numbers in a key, ``N`` heads of each codebook.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float, Int, Key
from pallas_kernels.nearest_key import nearest_key


class Codebooks(NamedTuple):
    """Keys and what they were made of.

    Attributes:
      keys: float32.
      counts: ``n``, moving average of the heads that fall to each key in a batch; 0 for a key without a history.
      sums: ``s``, moving average of their sum.
    """

    keys: Float[Array, "C K E"]
    counts: Float[Array, "C K"]
    sums: Float[Array, "C K E"]


def random_codebooks(key: Key[Array, ""], num_codebooks: int, num_keys: int, key_dim: int) -> Codebooks:
    """Keys from a standard normal law, without a history."""
    keys = jax.random.normal(key, (num_codebooks, num_keys, key_dim))
    return Codebooks(keys, jnp.zeros(keys.shape[:2]), jnp.zeros_like(keys))


def gathered(
    heads: Float[Array, "C N E"], index: Int[Array, "C N"], num_keys: int
) -> tuple[Float[Array, "C K"], Float[Array, "C K E"]]:
    """Number and sum of the heads that fall to each key."""
    codebook = jnp.arange(heads.shape[0])[:, None]
    counts = jnp.zeros((heads.shape[0], num_keys)).at[codebook, index].add(1.0)
    sums = jnp.zeros((heads.shape[0], num_keys, heads.shape[2])).at[codebook, index].add(heads)
    return counts, sums


def drawn(key: Key[Array, ""], heads: Float[Array, "C N E"], num_keys: int) -> Float[Array, "C K E"]:
    """``num_keys`` heads of each codebook, drawn with replacement."""
    places = jax.random.randint(key, (heads.shape[0], num_keys), 0, heads.shape[1])
    return jnp.take_along_axis(heads, places[..., None], axis=1)


def smoothed(counts: Float[Array, "C K"], epsilon: float) -> Float[Array, "C K"]:
    """Laplace smoothing that keeps the sum of each codebook: ``m`` above."""
    total = counts.sum(-1, keepdims=True)
    return (counts + epsilon) / (total + counts.shape[-1] * epsilon) * total


def ema_update(
    codebooks: Codebooks,
    heads: Float[Array, "C N E"],
    key: Key[Array, ""],
    *,
    decay: float,
    epsilon: float,
    dead_below: float,
) -> tuple[Codebooks, Float[Array, ""]]:
    """One batch of heads.

    Args:
      codebooks: before the batch.
      heads: float32.
      key: draws the heads that replace dead keys.
      decay: ``d`` above, in [0, 1).
      epsilon: ``e`` above.
      dead_below: a key is dead if less than this share of an even distribution falls to it; 0 replaces none.

    Returns:
      The codebooks after the batch, and the mean squared distance of heads to their keys before it.
    """
    num_keys = codebooks.keys.shape[1]
    index, distance = nearest_key(heads, codebooks.keys)
    least = dead_below * heads.shape[1] / num_keys
    weight = least if least > 0 else 1.0
    new = codebooks.counts == 0
    counts = jnp.where(new, weight, codebooks.counts)
    sums = jnp.where(new[..., None], weight * codebooks.keys, codebooks.sums)
    batch_counts, batch_sums = gathered(heads, index, num_keys)
    counts = decay * counts + (1 - decay) * batch_counts
    sums = decay * sums + (1 - decay) * batch_sums
    keys = sums / smoothed(counts, epsilon)[..., None]
    dead = counts < least
    keys = jnp.where(dead[..., None], drawn(key, heads, num_keys), keys)
    sums = jnp.where(dead[..., None], weight * keys, sums)
    return Codebooks(keys, jnp.where(dead, weight, counts), sums), distance.mean()


def kmeans(heads: Float[Array, "C N E"], key: Key[Array, ""], num_keys: int, iterations: int = 10) -> Codebooks:
    """Lloyd's algorithm from heads drawn at random; the same key gives the same codebooks.

    Args:
      heads: all of them at once.
      key: draws the first centres.
      num_keys: of each codebook.
      iterations: at least 1.

    Returns:
      Centres, the number of heads that fell to each in the last iteration and their sum. An empty cluster keeps its centre.

    Raises:
      ValueError: fewer than one iteration or key.
    """
    for name, value in {"iterations": iterations, "num_keys": num_keys}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

    def lloyd(_: Array, before: Codebooks) -> Codebooks:
        counts, sums = gathered(heads, nearest_key(heads, before.keys)[0], num_keys)
        means = sums / jnp.maximum(counts, 1)[..., None]
        return Codebooks(jnp.where(counts[..., None] > 0, means, before.keys), counts, sums)

    centres = drawn(key, heads, num_keys)
    return jax.lax.fori_loop(0, iterations, lloyd, Codebooks(centres, jnp.zeros(centres.shape[:2]), centres))
