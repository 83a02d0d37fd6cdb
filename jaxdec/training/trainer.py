"""The trainer: one compiled, donated update on any mesh, and checkpoints from which it goes on bit for bit.

    params <- params + optimizer(grad loss(params, state, batch, fold_in(key, step)))
    state  <- recipe.after_update(params, state of the loss)
    ema    <- d ema + (1 - d) params

The batch, the key and so the whole update are functions of the step's number: a run that was killed and goes on makes the very
updates it would have made. How arrays lie on devices is said by a mesh and rules (:mod:`jaxdec.parallel`) and changes nothing
but the grouping of sums.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdec.parallel import DATA, DATA_PARALLEL, ShardingRules, make_mesh, place_rows, place_whole, shardings
from jaxdec.training.checkpointing import Checkpoints, NoCheckpoints
from jaxdec.training.recipe import Batch, Metrics, Recipe
from jaxdec.typing import Array, Key, PyTree

COMPUTE = ("float32", "bfloat16")
OnStep = Callable[[int, dict[str, float]], Any]


@dataclasses.dataclass(frozen=True)
class Precision:
    """Mixed precision (Micikevicius et al. 2018, arXiv 1710.03740) without loss scaling, which bfloat16 does not need.

    Parameters, gradients, moments and averages stay as the recipe makes them, float32. Parameters and the floating-point arrays
    of a batch are rounded to ``compute`` where the loss takes them. The state keeps its types, and the loss is float32.

    Attributes:
      compute: "float32" or "bfloat16". float16, which would need loss scaling, is refused.
    """

    compute: str = "float32"

    def __post_init__(self):
        if self.compute not in COMPUTE:
            raise ValueError(f"compute must be one of {', '.join(COMPUTE)}, got {self.compute!r}")

    def rounded(self, tree: PyTree) -> PyTree:
        """``tree`` with its float32 arrays as the loss takes them."""
        if self.compute == "float32":
            return tree
        return jax.tree.map(lambda leaf: leaf.astype(self.compute) if leaf.dtype == jnp.float32 else leaf, tree)


class TrainState(struct.PyTreeNode):
    """What training changes.

    Attributes:
      step: updates made, int32.
      params: parameters.
      state: the other collections of variables.
      opt_state: of the optimiser.
      ema_params: exponential moving average of the parameters; None if none is kept.
      key: a key array, of all randomness of the run; an update's key is folded from it and ``step``.
    """

    # Shapes and shardings of a state are states too, so the fields are not declared to be arrays.
    step: PyTree
    params: PyTree
    state: PyTree
    opt_state: PyTree
    ema_params: PyTree
    key: PyTree

    @property
    def best_params(self) -> PyTree:
        """The averaged parameters where an average is kept, else the parameters."""
        return self.params if self.ema_params is None else self.ema_params


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is static about an update; see :func:`train` for the fields."""

    recipe: Any
    optimizer: Any
    mesh: Mesh
    rules: ShardingRules = DATA_PARALLEL
    accumulate: int = 1
    ema: float | None = None
    precision: Precision = Precision()

    def place(self, state: TrainState) -> PyTree:
        """Where the leaves of ``state`` lie."""
        return shardings(state, state.params, self.mesh, self.rules)


@runtime_checkable
class StepBatches(Protocol):
    """Batches by the number of their step, such as :class:`jaxdec.data.Batches`."""

    def at(self, step: int) -> Batch:
        """This process's rows of the batch of ``step``, from 0; a pure function."""
        ...


def begin(setup: Setup, key: Key[Array, ""], batch: Batch) -> TrainState:
    """The state before the first update."""
    init_key, run_key = jax.random.split(key)
    state = dict(setup.recipe.init(init_key, batch))
    params = state.pop("params")
    ema = None if setup.ema is None else jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, state, setup.optimizer.init(params), ema, run_key)


@functools.partial(jax.jit, static_argnums=0)
def _begin(setup: Setup, key: Key[Array, ""], batch: Batch) -> TrainState:
    state = begin(setup, key, batch)
    return jax.lax.with_sharding_constraint(state, setup.place(state))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(setup: Setup, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One update. ``state`` is donated.

    Returns:
      The state after it; the loss before it, the norm of its gradient, and what the recipe reports.
    """
    key = jax.random.fold_in(state.key, state.step)
    loss, metrics, new_state, gradients = _gradients(setup, state, batch, key)
    changes, opt_state = setup.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    new_state = setup.recipe.after_update(params, new_state)
    ema, decay = state.ema_params, setup.ema
    if decay is not None:
        ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), ema, params)
    after = TrainState(state.step + 1, params, new_state, opt_state, ema, state.key)
    metrics = {**metrics, "loss": loss, "grad_norm": _norm(gradients)}
    return jax.lax.with_sharding_constraint(after, setup.place(state)), metrics


def _norm(tree: PyTree) -> Array:
    """Euclidean norm of all arrays as one vector."""
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def _gradients(setup: Setup, state: TrainState, batch: Batch, key: Key[Array, ""]):
    """Loss, metrics, state and gradients of a batch, which goes through the recipe in ``setup.accumulate`` parts."""
    precision = setup.precision

    def loss(params, state, batch, key):
        value, (new_state, metrics) = setup.recipe.loss(precision.rounded(params), state, precision.rounded(batch), key)
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, state)
        return value.astype(jnp.promote_types(value.dtype, jnp.float32)), (new_state, metrics)

    gradient = jax.value_and_grad(loss, has_aux=True)
    if setup.accumulate == 1:
        (value, (new_state, metrics)), gradients = gradient(state.params, state.state, batch, key)
        return value, metrics, new_state, gradients

    def one(carry, part):
        before, total = carry
        number, rows = part
        found, gradients = gradient(state.params, before, rows, jax.random.fold_in(key, number))
        value, (after, metrics) = found
        return (after, jax.tree.map(jnp.add, total, gradients)), (value, metrics)

    parts = jax.tree.map(functools.partial(_parts, setup), dict(batch))
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (new_state, total), (values, metrics) = jax.lax.scan(
        one, (state.state, zeros), (jnp.arange(setup.accumulate), parts)
    )
    gradients = jax.tree.map(lambda leaf: leaf / setup.accumulate, total)
    return values.mean(), jax.tree.map(lambda leaf: leaf.mean(0), metrics), new_state, gradients


def _parts(setup: Setup, rows: Array) -> Array:
    """``[A, B / A, ...]``: every A-th row goes into one part, so that each device cuts up the rows that it has."""
    parts = rows.reshape(rows.shape[0] // setup.accumulate, setup.accumulate, *rows.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(parts, NamedSharding(setup.mesh, PartitionSpec(None, DATA)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evaluate(recipe: Any, precision: Precision, params: PyTree, state: PyTree, batch: Batch) -> Metrics:
    metrics = recipe.evaluate(precision.rounded(params), state, precision.rounded(batch))
    return {name: value.astype(jnp.promote_types(value.dtype, jnp.float32)) for name, value in metrics.items()}


def evaluate(
    recipe: Recipe,
    params: PyTree,
    state: PyTree,
    batches: Sequence[Batch],
    mesh: Mesh,
    precision: Precision | None = None,
) -> dict[str, float]:
    """Means of the recipe's metrics over the rows of all batches.

    Args:
      recipe: says what is measured.
      params: parameters.
      state: the other collections.
      batches: all of them whole in every process, such as :class:`jaxdec.data.InOrder`; at least one.
      mesh: rows go along its axis "data" where their number allows it.
      precision: float32 when None.

    Raises:
      ValueError: no batches.
    """
    totals: dict[str, float] = {}
    count = 0
    for batch in batches:
        placed = place_whole(batch, mesh)
        rows = next(iter(placed.values())).shape[0]
        metrics = jax.device_get(_evaluate(recipe, precision or Precision(), params, state, placed))
        totals = {name: totals.get(name, 0.0) + rows * float(value) for name, value in metrics.items()}
        count += rows
    if count == 0:
        raise ValueError("batches to evaluate on must not be empty")
    return {name: total / count for name, total in totals.items()}


def train(
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    batches: StepBatches,
    num_steps: int,
    *,
    key: Key[Array, ""],
    folder: Path | None = None,
    save_every: int = 500,
    mesh: Mesh | None = None,
    rules: ShardingRules = DATA_PARALLEL,
    accumulate: int = 1,
    ema: float | None = None,
    precision: Precision | None = None,
    evaluate_on: Sequence[Batch] | None = None,
    evaluate_every: int = 500,
    on_step: OnStep = lambda step, metrics: None,
    on_eval: OnStep = lambda step, metrics: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train for ``num_steps`` updates in all, or for those that are missing.

    Args:
      recipe: the method.
      optimizer: an optax optimiser.
      batches: the batch of every update.
      num_steps: updates in all, those made before an interruption included.
      key: of initial values and all further randomness. A run that goes on keeps the key that it began with.
      folder: where checkpoints go, the newest one kept; training goes on from it if there is one. None keeps none.
      save_every: updates between two checkpoints; the last state is always saved.
      mesh: devices; all of them along "data" when None.
      rules: how parameters are cut.
      accumulate: parts in which a batch goes through the loss, one after the other, their gradients averaged. For losses that
        are means over rows this is the gradient of the whole batch. It is not where rows depend on one another: batch
        normalisation sees one part at a time, and contrastive losses and capacities are those of a part.
      ema: decay of an exponential moving average of the parameters, in (0, 1). Evaluation then uses the average.
      precision: in what types the loss is computed; float32 when None.
      evaluate_on: batches to evaluate on, each whole in every process.
      evaluate_every: updates between two evaluations; the last state is always evaluated. A run that goes on evaluates once
        more where it was to be evaluated when it ended.
      on_step: called with the updates made and the metrics of the last one: "loss", "grad_norm", and the recipe's.
      on_eval: called with the updates made and what ``recipe.evaluate`` gave.
      stop: asked after every update; True saves the state and returns it. Several processes are stopped by SIGTERM to one.

    Returns:
      The state after the last update; its ``step`` is below ``num_steps`` if training was stopped.

    Raises:
      ValueError: an argument out of range, a checkpoint that has gone beyond ``num_steps``, a batch that devices and parts
        cannot share equally, rules that do not fit.
      CheckpointError: a checkpoint that cannot be read, or is of another recipe or optimizer.
      FloatingPointError: a loss or gradient that is not finite; the newest checkpoint is of an update before.
    """
    for name, value in {"num_steps": num_steps, "save_every": save_every, "accumulate": accumulate,
                        "evaluate_every": evaluate_every}.items():  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"ema must be in (0, 1), got {ema}")
    mesh = make_mesh({DATA: -1}) if mesh is None else mesh
    setup = Setup(recipe, optimizer, mesh, rules, accumulate, ema, precision or Precision())
    batch = place_rows(batches.at(0), mesh)
    _check_parts(batch, setup)
    shapes = jax.eval_shape(functools.partial(begin, setup), key, batch)
    setup.place(shapes)  # refuses rules that do not fit before anything compiles
    with Checkpoints(folder) if folder is not None else NoCheckpoints() as checkpoints:
        made = checkpoints.newest
        if made > num_steps:
            raise ValueError(f"folder {folder} holds a checkpoint of {made} updates, num_steps is {num_steps}")
        if made == 0:
            state = _begin(setup, key, batch)
        else:
            state = _restored(checkpoints, setup, shapes, key)
            batch = place_rows(batches.at(made), mesh)
        while True:
            if evaluate_on is not None and made > 0 and (made == num_steps or made % evaluate_every == 0):
                on_eval(made, evaluate(recipe, state.best_params, state.state, evaluate_on, mesh, setup.precision))
            if made == num_steps:
                return state
            state, metrics = update(setup, state, batch)
            made += 1
            if made < num_steps:
                batch = place_rows(batches.at(made), mesh)  # read while the devices are at work
            values = _finite(jax.device_get(metrics), made - 1)
            stopped = checkpoints.preempted(made) or (jax.process_count() == 1 and stop())
            if stopped or made == num_steps or made % save_every == 0:
                checkpoints.save(made, _arrays(state))
            on_step(made, values)
            if stopped and made < num_steps:
                return state


def _check_parts(batch: Batch, setup: Setup) -> None:
    rows, places = next(iter(batch.values())).shape[0], setup.mesh.shape[DATA]
    if rows % (places * setup.accumulate):
        raise ValueError(
            f"batch of {rows} rows is not divisible by accumulate times the places along {DATA!r}, "
            f"{setup.accumulate} x {places}"
        )


def _finite(metrics: Mapping[str, Any], step: int) -> dict[str, float]:
    """Metrics as plain numbers.

    Raises:
      FloatingPointError: a loss or a gradient that is not finite.
    """
    values = {name: float(value) for name, value in metrics.items()}
    for name, shown in {"loss": "loss", "grad_norm": "gradient's norm"}.items():
        if not math.isfinite(values[name]):
            raise FloatingPointError(f"the {shown} of update {step} is {values[name]}: training has diverged")
    return values


def _arrays(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds."""
    averages = {} if state.ema_params is None else {"ema_params": state.ema_params}
    return {
        "step": state.step,
        "params": state.params,
        "state": state.state,
        "opt_state": state.opt_state,
        "key": jax.random.key_data(state.key),
        **averages,
    }


def _restored(
    checkpoints: Checkpoints | NoCheckpoints, setup: Setup, shapes: TrainState, key: Key[Array, ""]
) -> TrainState:
    """The state in the newest checkpoint, every array where it belongs."""
    wanted = jax.eval_shape(_arrays, shapes)
    places = shardings(wanted, shapes.params, setup.mesh, setup.rules)
    found = checkpoints.restore(
        jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), wanted, places)
    )
    run_key = jax.random.wrap_key_data(found["key"], impl=jax.random.key_impl(key))
    return TrainState(
        found["step"], found["params"], found["state"], found["opt_state"], found.get("ema_params"), run_key
    )
