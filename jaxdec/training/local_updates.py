"""Optimisers under which a memory forgets nothing: rows without a gradient stay as they are, bit by bit.

The Discrete Key-Value Bottleneck (Traeuble et al. 2023, arXiv 2207.11240) learns without forgetting because an update touches
only values that were fetched. That needs more than a sparse gradient: momentum and the moments of Adam go on moving what was
fetched earlier, weight decay moves everything, a mean that is subtracted from gradients moves all rows at once. Plain gradient
descent, clipped or not, does none of it.

An optimiser is judged by what it does and not by its name.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdec.typing import Array, Bool, Key

STEPS = 4
"""Updates that are watched in each part of the trial: optimisers that add up a few gradients first show it."""


@functools.partial(jax.jit, static_argnums=(0, 2))
def moves_resting_rows(
    optimizer: optax.GradientTransformation, params: Mapping[str, Any], name: str
) -> Bool[Array, ""]:
    """Whether some row of ``params[name]`` moves while its gradient is zero, after one update in which it was not.

    Parameters and gradients are drawn: values that begin at zero would hide weight decay. Half of the rows rest at first, while
    the others learn, and then all of them. The last axis is within a row.

    Args:
      optimizer: the optimiser.
      params: of the model; only their shapes count.
      name: of the parameter, at the top.
    """
    key = jax.random.key(0)
    params = _drawn(key, params)
    rows = params[name].shape[:-1]
    resting = (jnp.arange(params[name][..., 0].size) % 2 == 1).reshape(*rows, 1)

    def updated(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state

    def watched(before, step):
        params, state = before
        still = resting | (step > STEPS)
        gradients = _drawn(jax.random.fold_in(key, step), params)
        after, state = updated(params, state, {**gradients, name: jnp.where(still, 0, gradients[name])})
        return (after, state), (still & (after[name] != params[name])).any()

    begin = updated(params, optimizer.init(params), _drawn(jax.random.fold_in(key, 0), params))
    return jax.lax.scan(watched, begin, 1 + jnp.arange(2 * STEPS))[1].any()


def check_resting_rows_stay(optimizer: optax.GradientTransformation, params: Mapping[str, Any], name: str) -> None:
    """Refuse an optimiser that moves rows without a gradient.

    Raises:
      ValueError: it does; or there is no parameter of that name.
    """
    if name not in params:
        raise ValueError(f"name must be one of the parameters, {', '.join(params)}; got {name!r}")
    if moves_resting_rows(optimizer, params, name):
        raise ValueError(
            f"optimizer must leave rows of {name!r} alone that have no gradient, and moves them: what was learned there "
            "before changes. Use plain gradient descent (optax.sgd without momentum or weight decay, clipped if need be), or "
            "allow it explicitly"
        )


def _drawn(key: Key[Array, ""], tree: Any) -> Any:
    """Normal numbers of standard deviation 0.1, for each array of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [0.1 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves)]
    return jax.tree.unflatten(structure, drawn)
