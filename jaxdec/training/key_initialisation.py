"""The first stage of a key-value bottleneck: keys learn from embeddings without labels (Traeuble et al. 2023, 2207.11240).

Whole batches are drawn from a new order in every epoch; what is left over waits for the next one.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdec.models.key_value_bottleneck import KeyValueBottleneck, check_finite
from jaxdec.typing import Array, Float, Key


def initialise_keys(
    module: KeyValueBottleneck,
    variables: Mapping[str, Any],
    embeddings: Float[Array, "N *n M"],
    *,
    batch_size: int,
    epochs: int,
    key: Key[Array, ""],
) -> tuple[dict[str, Any], Float[Array, "steps"]]:
    """Learn keys by moving averages.

    Args:
      module: the bottleneck.
      variables: of it; not changed.
      embeddings: of examples that need no labels, and need not be those that values learn from.
      batch_size: embeddings in a batch.
      epochs: passes over them; the paper makes 10.
      key: draws orders and what replaces dead keys.

    Returns:
      The variables with keys that have learned, and the mean squared distance of heads to their keys, batch by batch.

    Raises:
      ValueError: fewer embeddings than a batch has, numbers that are not finite, ``batch_size`` or ``epochs`` below 1.
    """
    for name, value in {"batch_size": batch_size, "epochs": epochs}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if len(embeddings) < batch_size:
        raise ValueError(f"embeddings must fill a batch of {batch_size}; got {len(embeddings)}")
    check_finite(embeddings)
    variables, errors = dict(variables), []
    for epoch in range(epochs):
        variables["bottleneck"], found = _epoch(
            module, batch_size, variables, embeddings, jax.random.fold_in(key, epoch)
        )
        errors.append(found)
    return variables, jnp.concatenate(errors)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _epoch(module, batch_size, variables, embeddings, key):
    order, draws = jax.random.split(key)
    steps = embeddings.shape[0] // batch_size
    rows = jax.random.permutation(order, embeddings.shape[0])[: steps * batch_size].reshape(steps, batch_size)

    def step(bottleneck, batch):
        rows, key = batch
        error, changed = module.apply(
            {**variables, "bottleneck": bottleneck}, embeddings[rows], key, method="init_keys", mutable=["bottleneck"]
        )
        return changed["bottleneck"], error

    return jax.lax.scan(step, variables["bottleneck"], (rows, jax.random.split(draws, steps)))
