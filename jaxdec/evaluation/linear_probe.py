"""What frozen features are worth: a linear classifier on them, and their nearest neighbours.

The linear probe is multinomial logistic regression with a Gaussian prior on the weights,

    minimise  sum_i -log softmax(x_i W + b)[y_i] + l2 / 2 ||W||^2

by L-BFGS on the whole set (Liu & Nocedal 1989): convex, deterministic, and without a learning rate; scikit-learn's ``C`` is
``1 / l2``. Features are centred and divided by one number, their root mean square, so that ``l2`` means the same for features
of any size; a scale per feature would blow up those that hardly vary.

The neighbours' vote is that of Wu et al. 2018 (arXiv 1805.01978), as MMCR and many others monitor training:

    score(y) = sum over the k most similar with label y of exp(cos / temperature)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.core import Tracer

from jaxdec.typing import Array, Float, Int


class LinearProbe(struct.PyTreeNode):
    """A fitted classifier.

    Attributes:
      weights: ``W``, of the scaled features.
      bias: ``b``.
      centre: taken off features.
      scale: features are divided by it.
      gradient_norm: of the mean objective where the fit ended; far from 0 if it ran out of steps.
    """

    weights: Float[Array, "D K"]
    bias: Float[Array, " K"]
    centre: Float[Array, " D"]
    scale: Float[Array, ""]
    gradient_norm: Float[Array, ""]

    def logits(self, features: Float[Array, "N D"]) -> Float[Array, "N K"]:
        """Scores of each class."""
        return (features - self.centre) / self.scale @ self.weights + self.bias

    def predict(self, features: Float[Array, "N D"]) -> Int[Array, " N"]:
        """The likeliest class."""
        return jnp.argmax(self.logits(features), axis=1).astype(jnp.int32)


def fit_linear_probe(
    features: Float[Array, "N D"],
    labels: Int[Array, " labels"],
    num_classes: int,
    *,
    l2: float | int = 1.0,
    max_steps: int = 200,
    tolerance: float | int = 1e-5,
) -> LinearProbe:
    """Fit the classifier, in float32 at least.

    Args:
      features: of the training images.
      labels: their classes, below ``num_classes``.
      num_classes: ``K``, at least 2.
      l2: precision of the prior, positive: without it separable classes have no minimum.
      max_steps: of L-BFGS, at most.
      tolerance: the fit ends where the gradient of the objective over ``N`` is no longer than this.

    Raises:
      ValueError: no images, labels of another number or that are no classes, or an argument out of range.
    """
    check_labelled(features, labels, num_classes)
    if not l2 > 0:
        raise ValueError(f"l2 must be positive, got {l2}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    wide = jnp.promote_types(features.dtype, jnp.float32)
    precision = jnp.asarray(l2, wide)
    return _fit(features.astype(wide), labels, precision, jnp.asarray(tolerance, wide), num_classes, max_steps)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _fit(features, labels, l2, tolerance, num_classes, max_steps) -> LinearProbe:
    count, width = features.shape
    centre = features.mean(0)
    scale = jnp.sqrt(jnp.mean((features - centre) ** 2))
    scale = jnp.where(scale > 0, scale, 1)
    scaled = (features - centre) / scale

    def objective(params):
        log_probs = jax.nn.log_softmax(scaled @ params["weights"] + params["bias"], axis=-1)
        likelihood = jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean()
        return 0.5 * l2 / count * jnp.sum(params["weights"] ** 2) - likelihood

    def length(tree):
        return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry):
        _, _, gradient_norm, steps = carry
        return (steps < max_steps) & (gradient_norm > tolerance)

    def step(carry):
        params, state, _, steps = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), state, length(gradient), steps + 1

    params = {
        "weights": jnp.zeros((width, num_classes), features.dtype),
        "bias": jnp.zeros(num_classes, features.dtype),
    }
    begin = (params, solver.init(params), jnp.asarray(jnp.inf, features.dtype), 0)
    found: Any = jax.lax.while_loop(unfinished, step, begin)
    params, _, gradient_norm, _ = found
    return LinearProbe(params["weights"], params["bias"], centre, scale, gradient_norm)


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _vote(known, known_labels, features, num_classes, k, temperature):
    similarity, nearest = jax.lax.top_k(_unit(features) @ _unit(known).T, k)
    weights = jnp.exp(similarity / temperature)
    scores = (jax.nn.one_hot(known_labels[nearest], num_classes, dtype=weights.dtype) * weights[..., None]).sum(1)
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


def nearest_neighbours(
    known: Float[Array, "N D"],
    known_labels: Int[Array, " labels"],
    features: Float[Array, "M D"],
    num_classes: int,
    *,
    k: int = 200,
    temperature: float | int = 0.5,
) -> Int[Array, " M"]:
    """Classes by a weighted vote of the ``k`` nearest neighbours, by cosine.

    Args:
      known: features with labels.
      known_labels: their classes, below ``num_classes``.
      features: to be classified.
      num_classes: ``K``, at least 2.
      k: neighbours that vote, at most ``N``.
      temperature: of the weights, positive.

    Returns:
      ``int32[M]``; of classes with equal scores the lowest.

    Raises:
      ValueError: as :func:`fit_linear_probe`; ``k`` or ``temperature`` out of range.
    """
    check_labelled(known, known_labels, num_classes)
    if not 1 <= k <= known.shape[0]:
        raise ValueError(f"k must be in [1, {known.shape[0]}], the labelled features; got {k}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return _vote(known, known_labels, features, num_classes=num_classes, k=k, temperature=temperature)


def check_labelled(features: Float[Array, "N D"], labels: Int[Array, " M"], num_classes: int) -> None:
    """Raise ``ValueError`` unless every row of ``features`` has a label below ``num_classes``."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if features.shape[0] < 1 or features.shape[0] != labels.shape[0]:
        raise ValueError(
            f"features and labels must be of one number of images, got {features.shape} and {labels.shape}"
        )
    if isinstance(labels, Tracer):
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must be in [0, {num_classes}), got {low if low < 0 else high}")


def _unit(features: Array) -> Array:
    return features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)
