"""The language-modelling loss: mean negative log-likelihood of the next token."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.language_model import LanguageModel
from jaxdec.training.sequence_cache import SequenceCache
from jaxdec.typing import Array, Float, Int


class Texts(struct.PyTreeNode):
    """A batch of right-padded texts.

    Attributes:
      tokens: token ids, any id as padding.
      weights: how much predicting each token counts; 0 for padding and for what is given, such as a prompt. The first
        token of a text is never predicted.
    """

    tokens: Int[Array, "B T"]
    weights: Float[Array, "B T"]


def next_token_loss(model: LanguageModel, texts: Texts) -> Float[Array, ""]:
    """``- sum_t w_t log p(x_t | x_<t) / sum_t w_t``, in nats per token, in one forward pass.

    Args:
      model: the language model.
      texts: at least one weight behind the first token must be positive, else the loss is NaN.
    """
    inputs, targets, weights = texts.tokens[:, :-1], texts.tokens[:, 1:], texts.weights[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    logits = model(inputs, positions, SequenceCache.create(inputs.shape[0])).logits
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), targets[..., None], axis=-1)[..., 0]
    return -(weights * log_probs).sum() / weights.sum()
