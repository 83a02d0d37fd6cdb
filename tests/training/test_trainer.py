"""The trainer: an update by hand, gradients in parts, going on bit for bit, divergence, refusals."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxdec.errors import CheckpointError
from jaxdec.parallel import ShardingRules, make_mesh
from jaxdec.training.recipe import Recipe
from jaxdec.training.trainer import Precision, Setup, begin, evaluate, train, update
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.training.tiny_recipes import ROWS, Regression, Stream, squared_error

KEY = jax.random.key(3)
RECIPE = Regression(noise=0.1)
OPTIMIZER = optax.adamw(1e-2)
SGD = optax.sgd(0.1)


def trained(num_steps, recipe=RECIPE, optimizer=OPTIMIZER, batches=None, **options):
    return train(recipe, optimizer, batches or Stream(), num_steps, key=KEY, **options)


def arrays(state):
    return jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))


def test_an_update_is_a_step_down_the_gradient():
    setup = Setup(Regression(), SGD, make_mesh({"data": 1}), ema=0.75)
    batch = jax.tree.map(jnp.asarray, Stream().at(0))
    before = arrays(begin(setup, KEY, batch))
    loss, gradient = jax.jit(jax.value_and_grad(squared_error))(before.params, batch["x"], batch["y"])
    state, metrics = update(setup, begin(setup, KEY, batch), batch)
    stepped = jax.tree.map(lambda old, slope: old - 0.1 * slope, before.params, gradient)
    chex.assert_trees_all_close(state.params, stepped, rtol=1e-5, atol=1e-6)
    averaged = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before.params, stepped)
    chex.assert_trees_all_close(state.ema_params, averaged, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(state.best_params, averaged, rtol=1e-5, atol=1e-6)
    behind = jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, before.params, stepped)
    chex.assert_trees_all_close(state.state["momentum"], behind, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.state["seen"]["mean"], 0.1 * batch["x"].mean(0), rtol=1e-5, atol=1e-7)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient)))
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": float(loss), "grad_norm": norm, "first_row": float(batch["x"].mean())}, rel=1e-5
    )
    assert int(state.step) == 1


def test_the_state_is_donated_and_each_update_has_a_key_of_its_own():
    setup = Setup(Regression(noise=1.0), optax.set_to_zero(), make_mesh({"data": 1}))
    batch = jax.tree.map(jnp.asarray, Stream().at(0))
    first = begin(setup, KEY, batch)
    weight = first.params["first"]["weight"]
    second, one = update(setup, first, batch)
    assert weight.is_deleted()
    _, other = update(setup, second, batch)
    assert float(one["loss"]) != float(other["loss"]), "the same noise twice"


def test_parts_of_a_batch_have_the_gradient_of_the_whole():
    whole, parts = (trained(3, Regression(), SGD, accumulate=count) for count in (1, 4))
    chex.assert_trees_all_close(parts.params, whole.params, rtol=1e-5, atol=1e-6)
    assert int(whole.state["seen"]["batches"]) == 3
    assert int(parts.state["seen"]["batches"]) == 12, "the state does not go through every part"


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    options = {"ema": 0.9, "accumulate": 2}
    straight = trained(12, **options)

    def break_at_7(step, metrics):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(12, **options, folder=tmp_path, save_every=3, on_step=break_at_7)
    steps = []
    stopped = trained(12, **options, folder=tmp_path, save_every=5, on_step=lambda step, metrics: steps.append(step),
                      stop=lambda: bool(steps) and steps[-1] == 8)  # fmt: skip
    assert steps == [7, 8, 9]
    assert int(stopped.step) == 9
    resumed = trained(12, **options, folder=tmp_path, on_step=lambda step, metrics: steps.append(step))
    assert steps[3:] == [10, 11, 12]
    chex.assert_trees_all_equal(arrays(resumed), arrays(straight))
    again = trained(12, **options, folder=tmp_path, on_step=lambda step, metrics: 1 / 0)
    chex.assert_trees_all_equal(arrays(again), arrays(straight))
    with pytest.raises(ValueError, match="holds a checkpoint of 12 updates, num_steps is 11"):
        trained(11, **options, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"another recipe or optimizer: it holds shape \(\) at opt_state/0/count"):
        trained(13, **options, folder=tmp_path, optimizer=SGD)
    with pytest.raises(CheckpointError, match=r"shape \(32,\) at ema_params/first/bias, this run has shape \(24,\)"):
        trained(13, Regression(0.1, width=24), **options, folder=tmp_path)


def test_divergence_names_the_update_and_keeps_the_checkpoint_before(tmp_path):
    with pytest.raises(FloatingPointError, match="the loss of update 2 is nan: training has diverged"):
        trained(6, Regression(), SGD, Stream(broken_at=2), folder=tmp_path, save_every=1)
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["2"]
    steps = []
    state = trained(3, Regression(), SGD, folder=tmp_path, on_step=lambda step, metrics: steps.append(step))
    assert steps == [3]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_gradient_that_is_not_finite_is_divergence_too():
    @dataclasses.dataclass(frozen=True)
    class Steep(Recipe):
        def init(self, key, batch):
            return {"params": {"weight": jnp.zeros(1)}}

        def loss(self, params, state, batch, key):
            return jnp.sqrt(params["weight"]).sum(), (state, {})

    with pytest.raises(FloatingPointError, match="the gradient's norm of update 0 is inf"):
        trained(1, Steep())


def test_evaluation_is_the_mean_over_rows_with_the_averaged_parameters():
    found = []
    sizes = (16, 16, 5)
    batches = [Stream(rows).at(100 + number) for number, rows in enumerate(sizes)]
    state = trained(5, ema=0.5, evaluate_on=batches, evaluate_every=2,
                    on_eval=lambda step, metrics: found.append((step, metrics)))  # fmt: skip
    assert [step for step, _ in found] == [2, 4, 5]
    x, y = (np.concatenate([batch[name] for batch in batches]) for name in ("x", "y"))
    expected = {"error": float(jax.jit(squared_error)(state.ema_params, x, y)), "input": float(x.mean())}
    assert found[-1][1] == pytest.approx(expected, rel=1e-4)
    assert found[-1][1]["error"] != pytest.approx(float(jax.jit(squared_error)(state.params, x, y)), rel=1e-3)
    with pytest.raises(ValueError, match="batches to evaluate on must not be empty"):
        evaluate(RECIPE, state.params, state.state, [], make_mesh({"data": 1}))


def test_bfloat16_is_for_the_loss_alone():
    seen = {}

    @dataclasses.dataclass(frozen=True)
    class Looking(Regression):
        def loss(self, params, state, batch, key):
            seen.update(params=params["first"]["weight"].dtype, x=batch["x"].dtype, count=batch["count"].dtype,
                        state=state["seen"]["mean"].dtype)  # fmt: skip
            return super().loss(params, state, batch, key)

    class Counted(Stream):
        def at(self, step):
            return {**super().at(step), "count": np.arange(ROWS, dtype=np.int32)}

    losses = {}
    for compute in ("float32", "bfloat16"):
        state = trained(2, Looking(), SGD, Counted(), precision=Precision(compute),
                        on_step=lambda step, metrics, name=compute: losses.update({name: metrics["loss"]}))  # fmt: skip
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
        assert state.state["seen"]["mean"].dtype == np.float32
    assert seen == {"params": jnp.bfloat16, "x": jnp.bfloat16, "count": np.int32, "state": np.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"save_every": 0}, "save_every must be at least 1, got 0"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"ema": 1.0}, r"ema must be in \(0, 1\), got 1.0"),
        (
            {"accumulate": 3},
            f"batch of {ROWS} rows is not divisible by accumulate times the places along 'data', 3 x 1",
        ),
        (
            {"rules": ShardingRules((("third/weight", PartitionSpec("data")),))},
            "sharding rule 'third/weight' decides on no parameter; there are first/bias, first/weight, second/weight",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_compiles(options, message):
    with pytest.raises(ValueError, match=message):
        trained(**{"num_steps": 1, "batches": Stream(), **options})


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match="compute must be one of float32, bfloat16, got 'float16'"):
        Precision("float16")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Orbax's other reads end after the first failed
def test_a_checkpoint_that_is_cut_short_is_reported(tmp_path):
    trained(2, folder=tmp_path)
    for path in sorted((tmp_path / "2").rglob("*")):
        if path.is_file() and path.name not in ("_METADATA", "_CHECKPOINT_METADATA"):
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(CheckpointError, match="2 is cut short or corrupt"):
        trained(3, folder=tmp_path)
