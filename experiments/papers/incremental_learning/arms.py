"""What is compared: bottlenecks of several sizes, and probes; each with the optimiser it learns by."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxdec.models.key_value_bottleneck import BottleneckConfig
from jaxdec.models.probes import LinearProbe, MLPProbe
from jaxdec.training.class_incremental import Examples, Learner, Stream, bottleneck_learner, learn
from jaxdec.training.key_initialisation import initialise_keys
from jaxdec.typing import Array, Float

LINEAR, MLP = "linear probe", "MLP"


@dataclasses.dataclass(frozen=True)
class Arm:
    """A learner and its optimiser.

    Attributes:
      learner: what learns.
      optimizer: how.
      moving: whether the optimiser may move values that were not fetched.
    """

    learner: Learner
    optimizer: optax.GradientTransformation
    moving: bool = False

    @property
    def is_bottleneck(self) -> bool:
        """Whether there are keys to learn first."""
        return bool(self.learner.local)


def named(codebooks: int, pairs: int, optimizer: str = "") -> str:
    """Name of a bottleneck."""
    return f"bottleneck {codebooks}x{pairs}" + (f", {optimizer}" if optimizer else "")


def plain_descent(learning_rate: float) -> optax.GradientTransformation:
    """As published: clipped at a norm of one, neither momentum nor weight decay."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate))


def digits_arms(config: Mapping[str, Any]) -> dict[str, Arm]:
    """Bottlenecks from small to large, the last one with momentum too, and both probes."""
    arms, rate = {}, config["learning_rate"]
    for codebooks, pairs in config["sizes"]:
        learner = bottleneck_learner(
            BottleneckConfig(64, 10, 10, num_codebooks=codebooks, num_pairs=pairs, key_dim=config["key_dim"])
        )
        arms[named(codebooks, pairs)] = Arm(learner, plain_descent(rate))
        if (codebooks, pairs) == tuple(config["sizes"][-1]):
            arms[named(codebooks, pairs, "momentum")] = Arm(learner, optax.sgd(rate, momentum=0.9), moving=True)
    for name, rate in ((LINEAR, config["linear_rate"]), (MLP, config["mlp_rate"])):
        arms[name] = Arm(probe(name, config), optax.sgd(rate))
    return arms


def probe(name: str, config: Mapping[str, Any]) -> Learner:
    """A probe of digits."""
    return Learner(LinearProbe(10) if name == LINEAR else MLPProbe(10, config["mlp_width"]), 10)


def probes_by_rate(config: Mapping[str, Any]) -> dict[tuple[str, float], Arm]:
    """Both probes at several learning rates."""
    rates = config["probe_rates"]
    return {(name, rate): Arm(probe(name, config), optax.sgd(rate)) for name in (LINEAR, MLP) for rate in rates}


def blob_arms(config: Mapping[str, Any]) -> dict[str, Arm]:
    """The four learners of the paper's figure, and its bottlenecks with its optimiser, which moves all values."""
    arms: dict[str, Arm] = {}
    for (codebooks, pairs), heads in ((config["chunk"], "chunk"), (config["random"], "random")):
        learner = bottleneck_learner(
            BottleneckConfig(
                2, 8, 8, num_codebooks=codebooks, num_pairs=pairs, key_dim=2, heads=heads, value_scale=0.001
            )
        )
        arms[named(codebooks, pairs)] = Arm(learner, plain_descent(config["learning_rate"]))
        arms[named(codebooks, pairs, "Adam")] = Arm(learner, optax.adam(config["adam_rate"]), moving=True)
    arms[LINEAR] = Arm(Learner(LinearProbe(8), 8), optax.adam(config["adam_rate"]))
    arms[MLP] = Arm(Learner(MLPProbe(8, config["mlp_width"]), 8), optax.adam(config["adam_rate"]))
    return arms


def begun(
    arm: Arm, example: Float[Array, "N M"], unlabelled: Float[Array, "U M"], batch_size: int, epochs: int, seed: int
) -> tuple[dict[str, Any], list[float]]:
    """Variables to begin with; keys have learned, and how far heads were from them is told batch by batch."""
    variables = jax.jit(arm.learner.module.init)(jax.random.key(seed), example)
    if not arm.is_bottleneck:
        return variables, []
    module: Any = arm.learner.module
    variables, errors = initialise_keys(
        module, variables, unlabelled, batch_size=batch_size, epochs=epochs, key=jax.random.key(seed + 1)
    )
    return variables, errors.tolist()


def learned(arm: Arm, variables: Mapping[str, Any], train: Examples, test: Examples, stream: Stream, smoothing: float):
    """The outcome of a stream."""
    return learn(
        arm.learner,
        arm.optimizer,
        variables,
        train,
        test,
        stream,
        label_smoothing=smoothing,
        allow_moving=arm.moving,
    )
