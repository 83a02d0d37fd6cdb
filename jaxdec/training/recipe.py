"""What the trainer needs to know of a method: its variables, its loss, what follows an update, and how it is judged.

A recipe holds no arrays. Variables are the collections of Flax: "params", which the optimiser changes, and whatever else a
method keeps, such as "batch_stats" or a momentum network, which is the *state*.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxdec.typing import Array, Float, Key, PyTree

Batch = Mapping[str, Any]
"""Arrays by name, rows along the first axis."""

Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Recipe(Protocol):
    """A training method. Implementations are frozen, hashable dataclasses: a recipe is static under ``jit``."""

    def init(self, key: Key[Array, ""], batch: Batch) -> dict[str, PyTree]:
        """Fresh variables.

        Args:
          key: of random initial values.
          batch: one to take shapes from.

        Returns:
          Flax collections by name, "params" among them. Called under ``jit``.
        """
        ...

    def loss(
        self, params: PyTree, state: dict[str, PyTree], batch: Batch, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[dict[str, PyTree], Metrics]]:
        """The loss of a batch.

        Args:
          params: parameters.
          state: all other collections.
          batch: as the data source gives it.
          key: for this batch: augmentation, dropout.

        Returns:
          ``(loss, (state, metrics))``: a mean over the rows, the state after this batch, with the structure that it had, and
          further scalars to report, which are means over the rows as well.
        """
        ...

    def after_update(self, params: PyTree, state: dict[str, PyTree]) -> dict[str, PyTree]:
        """The state after an update, given the new parameters: for momentum networks. Unchanged by default."""
        return state

    def evaluate(self, params: PyTree, state: dict[str, PyTree], batch: Batch) -> Metrics:
        """Scalars that judge the variables on a batch, means over its rows."""
        ...
