"""Next-token prediction, for any language model behind the contract of :mod:`jaxdec.language_model`.

loss = - mean_t log p(x_t | x_<t), in nats per token
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdec.language_model import LanguageModel
from jaxdec.training.next_token import Texts, next_token_loss
from jaxdec.training.recipe import Batch, Metrics, Recipe
from jaxdec.training.sequence_cache import SequenceCache
from jaxdec.typing import Array, Float, Key, PyTree

TENSOR_PARALLEL = (
    (r"(qkv|gate_up|head)/(weight|bias)$", PartitionSpec("model")),
    (r"(output|down)/weight$", PartitionSpec(None, "model")),
    (r"embed/embedding$", PartitionSpec("model")),
)
"""Rules for :class:`jaxdec.models.Transformer`, whose matrices are stored (out, in).

The first matrix of a block is cut by what it gives, the second by what it takes, and one sum over "model" a block remains
(Shoeybi et al. 2019, arXiv 1909.08053).
"""


@dataclasses.dataclass(frozen=True)
class NextToken(Recipe):
    """A recipe on batches ``{"tokens": int32 [B, T]}``, and ``"weights": float32 [B, T]`` where tokens do not count alike.

    With weights the loss is their weighted mean, which gradient accumulation then only approximates: parts with unequal sums
    of weights count alike.

    Attributes:
      module: the language model.
    """

    module: Any

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, PyTree]:
        """Parameters of the module."""
        tokens = batch["tokens"][:1, :-1]
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return {"params": self.module.init(key, tokens, positions, SequenceCache.create(1))["params"]}

    def loss(
        self, params: PyTree, state: dict[str, PyTree], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, PyTree], Metrics]]:
        """Nats per token."""
        return self._nats(params, batch), (state, {})

    def evaluate(self, params: PyTree, state: dict[str, PyTree], batch: Batch) -> Metrics:
        """``nats``, per token."""
        return {"nats": self._nats(params, batch)}

    def _nats(self, params: PyTree, batch: Batch) -> Float[Array, ""]:
        tokens = jnp.asarray(batch["tokens"])
        weights = jnp.asarray(batch.get("weights", jnp.ones(tokens.shape, jnp.float32)))
        return next_token_loss(LanguageModel(self.module, params), Texts(tokens, weights))
