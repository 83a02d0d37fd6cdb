"""Training without labels by self-distillation: DINO (Caron et al. 2021, arXiv 2104.14294), here of a CRATE encoder.

One update: draw ``V`` views of every image, let student and teacher embed all of them, descend
:func:`jaxdec.objectives.self_distillation.self_distillation_loss`, and let centre and teacher follow.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxdec.data.views import DIGITS, Alternated, Pipeline, make_views
from jaxdec.models.crate import LayerNorm
from jaxdec.models.crate_classifier import Affine, ClassifierConfig, CrateEncoder
from jaxdec.objectives.self_distillation import self_distillation_loss, updated_center
from jaxdec.training.recipe import Batch, Metrics, Recipe
from jaxdec.typing import Array, Float, Key, PyTree


class DistilledEncoder(nn.Module):
    """A CRATE encoder and DINO's head: an MLP, unit length, and a product with unit vectors.

    Attributes:
      config: of the encoder; its ``num_classes`` has no meaning here.
      outputs: ``K``; 65536 as published.
      hidden: width of the head's two hidden layers; 2048 as published.
      bottleneck: width before the last product; 256 as published.
    """

    config: ClassifierConfig
    outputs: int = 1024
    hidden: int = 256
    bottleneck: int = 64

    @nn.compact
    def __call__(self, images: Float[Array, "B Y X C"]) -> tuple[Float[Array, "B D"], Float[Array, "B K"]]:
        """Return features (the class token behind a norm) and outputs."""
        tokens = CrateEncoder(self.config, name="encoder")(images)
        features = LayerNorm(self.config.layers.norm_eps, name="norm")(tokens[:, 0])
        x = features
        for number, width in enumerate((self.hidden, self.hidden)):
            x = nn.gelu(Affine(width, name=f"hidden_{number}")(x), approximate=False)
        x = Affine(self.bottleneck, name="bottleneck")(x)
        prototypes = self.param("prototypes", nn.initializers.normal(0.02), (self.outputs, self.bottleneck))
        return features, _unit(x) @ _unit(prototypes).T


def _unit(rows: Float[Array, "N D"]) -> Float[Array, "N D"]:
    return rows * jax.lax.rsqrt(jnp.square(rows).sum(-1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class SelfDistillation(Recipe):
    """A recipe on batches ``{"image": float32 [B, Y, X, C], "label": int32 [B]}``; labels are read in evaluation alone.

    Attributes:
      module: encoder and head.
      num_views: ``V``, at least 2.
      pipeline: how views are made.
      tau: of the teacher, in [0, 1]. Published: 0.996, rising to 1.
      center_momentum: ``m``, in [0, 1].
      student_temperature: positive.
      teacher_temperature: positive.
    """

    module: DistilledEncoder
    num_views: int = 2
    pipeline: Pipeline | Alternated = DIGITS
    tau: float = 0.996
    center_momentum: float = 0.9
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04

    def __post_init__(self):
        if self.num_views < 2:
            raise ValueError(f"num_views must be at least 2, got {self.num_views}")
        for name in ("tau", "center_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("student_temperature", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, PyTree]:
        """The student, a teacher that equals it, and a centre of zeros."""
        params = self.module.init(key, batch["image"][:1])["params"]
        return {"params": params, "teacher": jax.tree.map(jnp.copy, params), "center": jnp.zeros(self.module.outputs)}

    def loss(
        self, params: PyTree, state: dict[str, PyTree], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, PyTree], Metrics]]:
        """The loss on views drawn with ``key``; reports ``entropy`` of the teacher's mean law, in nats: low is collapse."""
        views = make_views(batch["image"], key, self.num_views, self.pipeline)
        student, teacher = (self._outputs(variables, views) for variables in (params, state["teacher"]))
        loss = self_distillation_loss(
            student, teacher, state["center"], self.student_temperature, self.teacher_temperature
        )
        law = jax.nn.softmax((teacher - state["center"]) / self.teacher_temperature, axis=-1).mean((0, 1))
        entropy = -jnp.where(law > 0, law * jnp.log(jnp.where(law > 0, law, 1)), 0).sum()
        center = updated_center(state["center"], teacher, self.center_momentum)
        return loss, ({**state, "center": center}, {"entropy": jax.lax.stop_gradient(entropy)})

    def after_update(self, params: PyTree, state: dict[str, PyTree]) -> dict[str, PyTree]:
        """The teacher, one step behind ``params``."""
        return {**state, "teacher": optax.incremental_update(params, state["teacher"], step_size=1 - self.tau)}

    def evaluate(self, params: PyTree, state: dict[str, PyTree], batch: Batch) -> Metrics:
        """How often the image with the most similar features (of the teacher) has the same label."""
        images, label = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
        found: Any = self.module.apply({"params": state["teacher"]}, images)
        unit = _unit(found[0])
        others = jnp.where(jnp.eye(unit.shape[0], dtype=bool), -jnp.inf, unit @ unit.T)
        return {"neighbour_accuracy": (label[others.argmax(1)] == label).mean(dtype=jnp.float32)}

    def _outputs(self, params: PyTree, views: Float[Array, "views Y X C"]) -> Float[Array, "B V K"]:
        found: Any = self.module.apply({"params": params}, views)
        return found[1].reshape(-1, self.num_views, self.module.outputs)
