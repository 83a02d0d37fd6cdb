"""Classification with softmax cross-entropy and label smoothing (Szegedy et al. 2016, arXiv 1512.00567).

loss = - mean_b sum_k q_k log softmax(f(x_b))_k,     q_k = (1 - s) [k = y_b] + s / K
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.training.recipe import Batch, Metrics, Recipe
from jaxdec.typing import Array, Float, Int, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Classifier(Recipe):
    """A recipe on batches ``{"image": float32 [B, ...], "label": int32 [B]}``.

    Attributes:
      module: a Flax module, ``module.apply({"params": params}, image) -> logits [B, K]``.
      label_smoothing: ``s``, in [0, 1).

    Raises:
      ValueError: smoothing out of range.
    """

    module: Any
    label_smoothing: float = 0.0

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, PyTree]:
        """Parameters of the module.

        Raises:
          ValueError: the module has other variables than parameters.
        """
        variables = self.module.init(key, batch["image"][:1])
        if others := sorted(set(variables) - {"params"}):
            raise ValueError(f"module must have parameters alone, and has {', '.join(others)} as well")
        return {"params": variables["params"]}

    def loss(
        self, params: PyTree, state: dict[str, PyTree], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, PyTree], Metrics]]:
        """Smoothed cross-entropy; reports ``accuracy``."""
        logits = self._logits(params, batch)
        return cross_entropy(logits, batch["label"], self.label_smoothing), (state, accuracy(logits, batch["label"]))

    def evaluate(self, params: PyTree, state: dict[str, PyTree], batch: Batch) -> Metrics:
        """``nats``, the cross-entropy without smoothing, and ``accuracy``."""
        logits = self._logits(params, batch)
        return {"nats": cross_entropy(logits, batch["label"], 0.0), **accuracy(logits, batch["label"])}

    def _logits(self, params: PyTree, batch: Batch) -> Float[Array, "B K"]:
        logits = self.module.apply({"params": params}, batch["image"])
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def cross_entropy(logits: Float[Array, "B K"], labels: Int[Array, "B"], smoothing: float) -> Float[Array, ""]:
    """Mean over the batch, in nats."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    of_label = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return -((1 - smoothing) * of_label + smoothing * log_probs.mean(-1)).mean()


def accuracy(logits: Float[Array, "B K"], labels: Int[Array, "B"]) -> Metrics:
    """Share of examples whose label has the largest logit."""
    return {"accuracy": (logits.argmax(-1) == labels).mean(dtype=jnp.float32)}
