"""DINO's loss beside its equation; what gets a gradient, and what does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.objectives.self_distillation import self_distillation_loss, updated_center

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(size=(4, 3, 6)).astype(np.float32) for _ in range(2))
CENTER = RNG.normal(size=6).astype(np.float32)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_equals_the_equation():
    total, pairs = 0.0, 0
    for w in range(3):
        for v in range(3):
            if v != w:
                law = softmax((TEACHER[:, w] - CENTER) / 0.07)
                total += -(law * np.log(softmax(STUDENT[:, v] / 0.2))).sum(-1).mean()
                pairs += 1
    found = self_distillation_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER), jnp.asarray(CENTER), 0.2, 0.07)
    np.testing.assert_allclose(found, total / pairs, rtol=1e-5)


def test_only_the_student_learns():
    gradients = jax.grad(self_distillation_loss, argnums=(0, 1, 2))(*map(jnp.asarray, (STUDENT, TEACHER, CENTER)))
    assert np.abs(gradients[0]).max() > 0
    assert np.abs(gradients[1]).max() == np.abs(gradients[2]).max() == 0


def test_the_center_follows_the_teacher():
    expected = 0.9 * CENTER + 0.1 * TEACHER.reshape(-1, 6).mean(0)
    np.testing.assert_allclose(updated_center(jnp.asarray(CENTER), jnp.asarray(TEACHER)), expected, rtol=1e-5)


def test_what_makes_no_sense_is_refused():
    student, teacher, center = map(jnp.asarray, (STUDENT, TEACHER, CENTER))
    with pytest.raises(ValueError, match="student must hold at least 2 views, got 1"):
        self_distillation_loss(student[:, :1], teacher[:, :1], center)
    with pytest.raises(ValueError, match=r"teacher_temperature must be positive, got 0\.0"):
        self_distillation_loss(student, teacher, center, teacher_temperature=0.0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\], got 1.5"):
        updated_center(center, teacher, 1.5)
