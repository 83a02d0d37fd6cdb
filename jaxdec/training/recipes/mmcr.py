"""Training with maximum manifold capacity representations (Yerxa et al. 2023, arXiv 2303.03307).

One update: draw V views of every image, embed all of them in one pass, and descend
:func:`jaxdec.objectives.manifold_capacity.mmcr_loss`.
With a momentum network its parameters follow after every update,

    theta_m <- tau theta_m + (1 - tau) theta

and its batch-norm statistics come from its own passes. As in the authors' code it sees all views, in training mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdec.data.views import DIGITS, Alternated, Pipeline, make_views
from jaxdec.objectives.manifold_capacity import mmcr_loss
from jaxdec.typing import Array, Float, Key

Batch = Mapping[str, Any]
"""``image``: float ``[B, H, W, C]`` in [0, 1]; ``label``: int32 ``[B]``, read in :meth:`MMCR.evaluate` alone."""


@dataclasses.dataclass(frozen=True)
class MMCR:
    """The recipe; see :class:`jaxdec.training.recipe.Recipe`.

    Attributes:
      model: ``(images, train) -> (features [B, D], embeddings [B, E])``, such as
        :class:`jaxdec.models.encoders.EncoderProjector`.
      num_views: ``V``.
      pipeline: how views are made.
      local_weight: lambda of the loss.
      tau: of the momentum network, in [0, 1]; None for none. Published: 0.99.
    """

    model: nn.Module
    num_views: int = 2
    pipeline: Pipeline | Alternated = DIGITS
    local_weight: float | int = 0.0
    tau: float | int | None = None

    def __post_init__(self):
        if self.num_views < 1:
            raise ValueError(f"num_views must be at least 1, got {self.num_views}")
        if isinstance(self.pipeline, Alternated) and self.num_views % 2:
            raise ValueError(f"num_views must be even where two pipelines take turns, got {self.num_views}")
        if not self.local_weight >= 0:
            raise ValueError(f"local_weight must be at least 0, got {self.local_weight}")
        if self.tau is not None and not 0 <= self.tau <= 1:
            raise ValueError(f"tau must be in [0, 1], got {self.tau}")

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, Any]:
        """All collections; the momentum network begins as a copy, in "momentum"."""
        collections = dict(self.model.init(key, jnp.asarray(batch["image"]), train=False))
        if self.tau is not None:
            collections["momentum"] = jax.tree.map(jnp.copy, {**collections})
        return collections

    def loss(
        self, params: Any, state: Mapping[str, Any], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, Any], dict[str, Float[Array, ""]]]]:
        """The loss on views drawn with ``key``, the collections it changes, and metrics."""
        views = make_views(jnp.asarray(batch["image"]), key, self.num_views, self.pipeline)
        online = {name: value for name, value in state.items() if name != "momentum"}
        embeddings, changed = self._embed({"params": params, **online}, views)
        new_state = {**online, **changed}
        momentum_embeddings = None
        if self.tau is not None:
            momentum_embeddings, changed = self._embed(jax.lax.stop_gradient(state["momentum"]), views)
            new_state["momentum"] = {**state["momentum"], **changed}
        loss, metrics = mmcr_loss(
            embeddings, self.num_views, local_weight=self.local_weight, momentum_embeddings=momentum_embeddings
        )
        return loss, (new_state, metrics)

    def after_update(self, params: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """The momentum network, one step behind ``params``."""
        if self.tau is None:
            return dict(state)
        behind = optax.incremental_update(params, state["momentum"]["params"], step_size=1 - self.tau)
        return {**state, "momentum": {**state["momentum"], "params": behind}}

    def evaluate(self, params: Any, state: Mapping[str, Any], batch: Batch) -> dict[str, Float[Array, ""]]:
        """The loss on fixed views, and how often the image with the most similar features has the same label.

        Batch norm uses its running statistics. Features are those of the images as they are.
        """
        collections = {"params": params, **{name: value for name, value in state.items() if name != "momentum"}}
        images = jnp.asarray(batch["image"])
        views = make_views(images, jax.random.key(0), self.num_views, self.pipeline)
        features, _ = self.features(collections, images)
        _, embeddings = self.features(collections, views)
        loss, metrics = mmcr_loss(embeddings, self.num_views, local_weight=self.local_weight)
        unit = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        others = jnp.where(jnp.eye(unit.shape[0], dtype=bool), -jnp.inf, unit @ unit.T)
        label = jnp.asarray(batch["label"])
        found = (label[jnp.argmax(others, axis=1)] == label).astype(jnp.float32)
        return {"loss": loss, "gap": metrics["gap"], "neighbour_accuracy": found.mean()}

    def features(
        self, collections: Mapping[str, Any], images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B E"]]:
        """Features and embeddings of images as they are, running statistics in the batch norms."""
        own = {name: value for name, value in collections.items() if name != "momentum"}
        found: Any = self.model.apply(own, images, train=False)
        return found

    def _embed(self, collections: Mapping[str, Any], views: Array) -> tuple[Array, dict[str, Any]]:
        found: Any = self.model.apply(collections, views, train=True, mutable=["batch_stats"])
        (_, embeddings), changed = found
        return embeddings, dict(changed)
