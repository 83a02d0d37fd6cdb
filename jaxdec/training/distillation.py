"""Distillation: a student learns the whole law of its teacher at every place of a text, not only the token that came next.

Hinton et al. 2015 (arXiv 1503.02531); for draft models of speculative decoding, on texts that the teacher wrote: DistillSpec
(Zhou et al. 2024, arXiv 2310.08461). With ``p_t`` the teacher's law behind token ``t`` and ``q_t`` the student's,

    loss = sum_t w_t KL(p_t || q_t) / sum_t w_t

in nats per token. By Pinsker's inequality a small divergence bounds the share of rejected drafts, ``1 - sum_x min(p, q)``.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxdec.language_model import LanguageModel
from jaxdec.training.sequence_cache import SequenceCache
from jaxdec.typing import Array, Float, Int


class Taught(struct.PyTreeNode):
    """A batch of right-padded texts with what the teacher says behind every token.

    Attributes:
      tokens: token ids, any id as padding.
      weights: how much the law behind each token counts; 0 for padding.
      teacher_logits: the teacher's logits behind each token; finite where the weight is 0, too.
    """

    tokens: Int[Array, "B T"]
    weights: Float[Array, "B T"]
    teacher_logits: Float[Array, "B T V"]


def distillation_loss(model: LanguageModel, taught: Taught) -> Float[Array, ""]:
    """Weighted mean of ``KL(teacher || model)``, in nats per token.

    Args:
      model: the student.
      taught: at least one weight must be positive, else the loss is NaN.
    """
    positions = jnp.broadcast_to(jnp.arange(taught.tokens.shape[1]), taught.tokens.shape)
    logits = model(taught.tokens, positions, SequenceCache.create(taught.tokens.shape[0])).logits
    log_p = jax.nn.log_softmax(taught.teacher_logits, axis=-1)
    divergence = (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits, axis=-1))).sum(-1)
    return (taught.weights * divergence).sum() / taught.weights.sum()


def all_but(optimizer: optax.GradientTransformation, *frozen: str) -> optax.GradientTransformation:
    """``optimizer`` for all parameters but those of the submodules named ``frozen``, which stay as they are.

    The gradients of frozen parameters are not computed: nothing uses them.
    """

    def labels(params):
        return {
            name: jax.tree.map(lambda _, kind="frozen" if name in frozen else "trained": kind, part)
            for name, part in params.items()
        }

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
