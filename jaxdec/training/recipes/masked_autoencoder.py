"""Training of CRATE-MAE (Pai et al. 2024, arXiv 2404.02446): predict the pixels of patches that are hidden.

See :mod:`jaxdec.models.crate_autoencoder`. Which patches are hidden is drawn anew for every image and update.
"""

import dataclasses
from typing import Any

import jax

from jaxdec.models.crate_autoencoder import MASK_RATIO, CrateAutoencoder, random_mask, reconstruction_loss
from jaxdec.models.patches import grid
from jaxdec.training.recipe import Batch, Metrics, Recipe
from jaxdec.typing import Array, Bool, Float, Key, PyTree


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder(Recipe):
    """A recipe on batches ``{"image": float32 [B, Y, X, C]}``.

    Attributes:
      module: the auto-encoder.
      mask_ratio: share of patches that are hidden, in (0, 1).
      normalise: predict patches scaled to zero mean and unit variance each.

    Raises:
      ValueError: a ratio out of range, or one that hides all patches or none.
    """

    module: CrateAutoencoder
    mask_ratio: float = MASK_RATIO
    normalise: bool = False

    def __post_init__(self):
        random_mask(jax.random.key(0), 1, self._num_patches, self.mask_ratio)  # refuses what cannot be hidden

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, PyTree]:
        """Parameters of the module."""
        return {"params": self.module.init(key, batch["image"][:1], self._masked(key, 1))["params"]}

    def loss(
        self, params: PyTree, state: dict[str, PyTree], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, PyTree], Metrics]]:
        """Mean squared error of hidden pixels."""
        return self._error(params, batch, key), (state, {})

    def evaluate(self, params: PyTree, state: dict[str, PyTree], batch: Batch) -> Metrics:
        """``error``: the loss with patches hidden by a fixed key."""
        return {"error": self._error(params, batch, jax.random.key(0))}

    def _error(self, params: PyTree, batch: Batch, key: Key[Array, ""]) -> Float[Array, ""]:
        images, masked = batch["image"], self._masked(key, batch["image"].shape[0])
        found: Any = self.module.apply({"params": params}, images, masked)
        return reconstruction_loss(images, found.patches, masked, self.module.config.patch_size, self.normalise)

    def _masked(self, key: Key[Array, ""], batch: int) -> Bool[Array, "B N"]:
        return random_mask(key, batch, self._num_patches, self.mask_ratio)

    @property
    def _num_patches(self) -> int:
        rows, columns = grid(self.module.config.image_size, self.module.config.patch_size)
        return rows * columns
