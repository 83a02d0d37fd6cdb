"""Updates under the stopwatch, by the trainer and by a loop written by hand. Runs inside a worker process."""

import functools
import time
from typing import Any

import jax
import optax

from experiments.benchmarks import machine
from experiments.record import environment
from experiments.training_data import make_sources
from experiments.training_recipes import make_recipe
from jaxdec.compat import CompileClock
from jaxdec.data import Batches, batches
from jaxdec.training.recipe import Batch, Recipe
from jaxdec.training.trainer import train
from jaxdec.typing import PyTree

BY_HAND, TRAINER = "by hand", "trainer"
FIRST = 3
"""Updates that are made before the clock starts: the first ones wait for memory."""


class TrainingEngine:
    """Both loops, in one process."""

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._made: dict[str, tuple[Recipe, Batches]] = {}
        self._optimizer = optax.adamw(1e-3)  # one for all: what is compiled depends on which it is

    def describe(self) -> dict[str, Any]:
        """Versions, device, and the sides, which are added by the suite."""
        import jaxdec

        return {
            "engine": "jaxdec",
            "version": jaxdec.__version__,
            "jax": jax.__version__,
            "dtype": "float32",
            "threads": machine.num_threads(),
        }

    def environment(self) -> dict[str, Any]:
        """Hardware, versions and commit."""
        return environment()

    def warm_up(self, side: str, case: str, batch: int, data: Any, recipe: Any, **_: Any) -> dict[str, Any]:
        """Make recipe and data, and compile."""
        clock = CompileClock()
        with clock:
            if case not in self._made:
                rows = batches(make_sources(data)[0], batch, 0)
                self._made[case] = make_recipe(recipe, rows.at(0)), rows
            self._seconds(side, case, 1)
        return {"compile_seconds": clock.seconds}

    def measure(self, side: str, case: str, batch: int, updates: int, **_: Any) -> dict[str, float]:
        """Milliseconds per update, and rows per second."""
        seconds = self._seconds(side, case, updates) / updates
        return {"milliseconds": 1e3 * seconds, "rows_per_second": batch / seconds}

    def _seconds(self, side: str, case: str, updates: int) -> float:
        loop = {BY_HAND: by_hand, TRAINER: by_trainer}[side]
        return loop(*self._made[case], self._optimizer, updates)


def by_trainer(recipe: Recipe, rows: Batches, optimizer: optax.GradientTransformation, updates: int) -> float:
    """Seconds of ``updates`` updates by :func:`jaxdec.training.trainer.train`, without checkpoints."""
    times: dict[int, float] = {}

    def note(step: int, metrics: Any) -> None:
        times[step] = time.perf_counter()

    train(recipe, optimizer, rows, FIRST + updates, key=jax.random.key(0), on_step=note)
    return times[FIRST + updates] - times[FIRST]


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def hand_update(
    recipe: Recipe, optimizer: optax.GradientTransformation, params: PyTree, opt_state: PyTree, batch: Batch, key: Any
) -> Any:
    """One update: parameters, the optimiser's state, the loss."""
    (loss, _), gradients = jax.value_and_grad(recipe.loss, has_aux=True)(params, {}, batch, key)
    changes, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, changes), opt_state, loss


def by_hand(recipe: Recipe, rows: Batches, optimizer: optax.GradientTransformation, updates: int) -> float:
    """Seconds of ``updates`` updates by the least that trains: no norms, no checks, the loss read at the end alone."""
    key = jax.random.key(0)
    params = jax.jit(recipe.init)(key, rows.at(0))["params"]
    opt_state = optimizer.init(params)
    start = 0.0
    for step in range(FIRST + updates):
        params, opt_state, loss = hand_update(recipe, optimizer, params, opt_state, rows.at(step), key)
        if step == FIRST - 1:
            float(loss)
            start = time.perf_counter()
    float(loss)
    return time.perf_counter() - start
