"""DINO: a network learns what a slow copy of itself says of another view of the image.

Caron et al. 2021 (arXiv 2104.14294). With ``s_v`` and ``t_v`` the outputs of
student and teacher for view ``v``, and ``c`` a running mean of the teacher's outputs,

    loss = mean over images and over pairs v != w of  - sum_k softmax((t_w - c) / tau_t)_k log softmax(s_v / tau_s)_k
    c <- m c + (1 - m) mean t               teacher <- tau teacher + (1 - tau) student

Centring and sharpening (a low teacher temperature) keep the outputs from collapsing. Views are all of one size here; the
multi-crop of the paper is not built.
"""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float


def self_distillation_loss(
    student: Float[Array, "B V K"],
    teacher: Float[Array, "B V K"],
    center: Float[Array, "K"],
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Float[Array, ""]:
    """The loss; no gradient flows into ``teacher`` or ``center``.

    Raises:
      ValueError: fewer than two views, or a temperature that is not positive.
    """
    views = student.shape[1]
    if views < 2:
        raise ValueError(f"student must hold at least 2 views, got {views}")
    for name, value in {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher - center) / teacher_temperature, axis=-1)
    log_probs = jax.nn.log_softmax(student / student_temperature, axis=-1)
    pairs = -jnp.einsum("bwk,bvk->bwv", targets, log_probs)
    other = 1 - jnp.eye(views)
    return (pairs * other).sum() / (student.shape[0] * views * (views - 1))


def updated_center(
    center: Float[Array, "K"], teacher: Float[Array, "B V K"], momentum: float = 0.9
) -> Float[Array, "K"]:
    """``m c + (1 - m) mean t``.

    Raises:
      ValueError: ``momentum`` outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    return momentum * center + (1 - momentum) * jax.lax.stop_gradient(teacher).mean((0, 1))
