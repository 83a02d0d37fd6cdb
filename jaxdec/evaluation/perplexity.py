"""How well a model predicts a text, and how far one model's laws are from another's.

Perplexity (Jelinek et al. 1977) over the ``N`` tokens scored, and the divergence of Kullback and Leibler (1951) of an
approximate law ``q`` from its reference ``p``, token by token, both in natural logarithms:

    PPL = exp(-1/N sum_i log q(x_i | x_<i))        KL(p || q) = sum_x p(x) (log p(x) - log q(x))

Perplexities of two models can be compared only if both read the same token ids. A text is cut into windows that are scored each
by itself; the first token of a window is context, not scored. For the change from one model to another, the windows are paired
(:func:`perplexity_change`): some windows are harder than others for both models, and that drops out of the difference.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.evaluation.bootstrap import Interval, mean_interval
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int


def windows(tokens: Sequence[int], width: int, count: int | None = None) -> np.ndarray:
    """Cut a text into windows that do not overlap; what is left over at its end is dropped.

    Args:
      tokens: token ids.
      width: tokens of a window, at least 2.
      count: windows wanted, from the beginning; None for all.

    Returns:
      ``int32[count, width]``.

    Raises:
      ValueError: a width or count out of range, or a text too short.
    """
    if width < 2:
        raise ValueError(f"width must be at least 2 (the first token is not scored), got {width}")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    whole = len(tokens) // width
    if whole < (count or 1):
        raise ValueError(f"tokens has {len(tokens)} ids, fewer than {count or 1} windows of {width}")
    count = count or whole
    return np.asarray(tokens[: count * width], np.int32).reshape(count, width)


@functools.partial(jax.jit)
def next_token_log_probs(model: LanguageModel, tokens: Int[Array, "B T"]) -> Float[Array, "B T-1 V"]:
    """The law of every token but the first, given those before it in its row.

    Args:
      model: any language model.
      tokens: whole rows, without padding, ``T`` at least 2.

    Returns:
      Log-probabilities in the logits' type, float32 at least.
    """
    batch, width = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(width - 1), (batch, width - 1))
    logits = model(tokens[:, :-1], positions, model.init_cache(batch, width)).logits
    return jax.nn.log_softmax(logits, axis=-1)


@functools.partial(jax.jit)
def surprisal(log_probs: Float[Array, "B N V"], targets: Int[Array, "B N"]) -> Float[Array, "B N"]:
    """``-log q(x_i)`` in nats: of the token that came."""
    return -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]


@functools.partial(jax.jit)
def kl_divergence(reference: Float[Array, "B N V"], other: Float[Array, "B N V"]) -> Float[Array, "B N"]:
    """``KL(reference || other)`` in nats, of log-probabilities; tokens that the reference excludes count nothing."""
    p = jnp.exp(reference)
    return jnp.sum(jnp.where(p > 0, p * (reference - other), 0), axis=-1)


def perplexity(surprisals: Sequence[float] | np.ndarray) -> float:
    """``exp`` of the mean.

    Args:
      surprisals: in nats, one number per token, or the means of windows of one width.

    Raises:
      ValueError: there is none.
    """
    values = np.asarray(surprisals, np.float64)
    if values.size == 0:
        raise ValueError("surprisals is empty: give at least one number")
    return math.exp(values.mean())


def perplexity_change(
    reference: Sequence[float] | np.ndarray,
    other: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """``PPL(other) / PPL(reference) - 1`` with its paired bootstrap interval over windows.

    Args:
      reference: mean surprisal of each window in nats.
      other: the same windows under the other model.
      confidence: see :func:`jaxdec.evaluation.mean_interval`.
      resamples: see there.
      seed: see there.

    Raises:
      ValueError: other windows than those of the reference, or what :func:`jaxdec.evaluation.mean_interval` refuses.
    """
    one, two = (np.asarray(values, np.float64) for values in (reference, other))
    if one.shape != two.shape:
        raise ValueError(f"reference and other must be of the same windows, got shapes {one.shape} and {two.shape}")
    found = mean_interval(two - one, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(*(math.expm1(value) for value in found))  # exp is monotone: the interval's ends stay its ends
