"""Distillation: the loss by the book, frozen parameters, and a student that comes closer to its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.models.layer_skip import skip_layers
from jaxdec.training import fit
from jaxdec.training.distillation import Taught, all_but, distillation_loss
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer


def taught(teacher, seed: int = 0) -> Taught:
    tokens = np.random.default_rng(seed).integers(0, 41, (3, 10))
    weights = np.ones((3, 10))
    weights[1, 6:] = 0  # padding
    weights[2, 4] = 2.5
    logits = jnp.stack([full_logits(teacher, row) for row in tokens.tolist()])
    return Taught(jnp.asarray(tokens, jnp.int32), jnp.asarray(weights, jnp.float32), logits)


@pytest.mark.slow
def test_the_loss_is_the_weighted_mean_divergence():
    teacher, student = tiny_transformer(0, scale=3.0), tiny_transformer(1, scale=3.0)
    batch = taught(teacher)
    expected = 0.0
    for tokens, weights, seen in zip(
        batch.tokens.tolist(), np.asarray(batch.weights, np.float64), batch.teacher_logits
    ):
        p, q = (np.asarray(jax.nn.softmax(x), np.float64) for x in (seen, full_logits(student, tokens)))
        expected += float(weights @ (p * np.log(p / q)).sum(-1))
    expected /= float(batch.weights.sum())
    assert expected > 0.1
    assert float(distillation_loss(student, batch)) == pytest.approx(expected, rel=1e-4)
    assert float(distillation_loss(teacher, batch)) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_a_student_of_one_layer_comes_closer_and_keeps_its_embeddings():
    teacher = tiny_transformer(scale=3.0)
    student = skip_layers(teacher, [1])
    batches = [taught(teacher, seed) for seed in range(4)]
    trained = fit(distillation_loss, all_but(optax.adamw(1e-2), "embed"), student, lambda step: batches[step % 4], 60)
    before, after = (float(distillation_loss(model, batches[0])) for model in (student, trained))
    assert after < before / 2
    np.testing.assert_array_equal(trained.params["embed"]["embedding"], teacher.params["embed"]["embedding"])
    moved = jax.tree.map(
        lambda new, old: bool((new != old).all()), trained.params["layer_0"], student.params["layer_0"]
    )
    assert all(jax.tree.leaves(moved))
