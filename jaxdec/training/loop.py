"""One training loop: a jitted step over a donated state, and checkpoints from which it goes on bit for bit.

The batch of a step is a pure function of the step's number, so a run that was interrupted and goes on sees the same batches as
one that was not.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import struct

from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Float, Int, PyTree

Loss = Callable[[LanguageModel, Any], Float[Array, ""]]


class TrainState(struct.PyTreeNode):
    """What training changes.

    Attributes:
      step: updates made.
      model: the model with its present parameters.
      opt_state: of the optimiser.
    """

    step: Int[Array, ""]
    model: LanguageModel
    opt_state: PyTree


def begin(optimizer: optax.GradientTransformation, model: LanguageModel) -> TrainState:
    """The state before the first update. Parameters are copied: :func:`update` donates its state."""
    model = jax.tree.map(jnp.array, model)
    return TrainState(jnp.int32(0), model, optimizer.init(model.params))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def update(
    loss: Loss, optimizer: optax.GradientTransformation, state: TrainState, batch: Any
) -> tuple[TrainState, Float[Array, ""]]:
    """One step of gradient descent. ``state`` is donated.

    Returns:
      The state after the step, and the loss before it.
    """
    value, gradients = jax.value_and_grad(lambda params: loss(state.model.replace(params=params), batch))(
        state.model.params
    )
    changes, opt_state = optimizer.update(gradients, state.opt_state, state.model.params)
    model = state.model.replace(params=optax.apply_updates(state.model.params, changes))
    return TrainState(state.step + 1, model, opt_state), value


def fit(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    model: LanguageModel,
    batch_at: Callable[[int], Any],
    num_steps: int,
    *,
    folder: Path | None = None,
    save_every: int = 500,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> LanguageModel:
    """Train for ``num_steps`` updates in all, or for those that are missing.

    Args:
      loss: of a model and a batch.
      optimizer: an optax optimiser.
      model: where to begin; it is not changed.
      batch_at: the batch of an update, by number from 0; must be a pure function.
      num_steps: updates in all, those made before an interruption included.
      folder: where checkpoints go, the newest one kept; training goes on from it if there is one. None keeps none.
      save_every: updates between two checkpoints; the last state is always saved.
      on_step: called with the updates made and the loss before the last one.

    Returns:
      The trained model.

    Raises:
      ValueError: ``num_steps`` or ``save_every`` below 1, or a checkpoint that has gone beyond ``num_steps``.
      FloatingPointError: a loss that is not finite.
    """
    for name, value in {"num_steps": num_steps, "save_every": save_every}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    state = begin(optimizer, model)
    if folder is None:
        return _run(loss, optimizer, state, batch_at, 0, num_steps, on_step, lambda state, made: None)
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as checkpoints:
        made = checkpoints.latest_step() or 0
        if made > num_steps:
            raise ValueError(f"folder {folder} holds a checkpoint of {made} updates, num_steps is {num_steps}")
        if made:
            state = _restored(checkpoints, made, state)

        def save(state: TrainState, made: int):
            if made % save_every == 0 or made == num_steps:
                checkpoints.save(made, args=ocp.args.StandardSave(_arrays(state)))

        return _run(loss, optimizer, state, batch_at, made, num_steps, on_step, save)


def _run(loss, optimizer, state, batch_at, made, num_steps, on_step, save) -> LanguageModel:
    for step in range(made, num_steps):
        state, value = update(loss, optimizer, state, batch_at(step))
        value = float(value)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of update {step} is {value}: training has diverged")
        save(state, step + 1)
        on_step(step + 1, value)
    return state.model


def _arrays(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.model.params, "opt_state": state.opt_state}


def _restored(checkpoints: ocp.CheckpointManager, made: int, state: TrainState) -> TrainState:
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
    found = checkpoints.restore(made, args=ocp.args.StandardRestore(shapes))
    return TrainState(found["step"], state.model.replace(params=found["params"]), found["opt_state"])
