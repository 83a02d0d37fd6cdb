"""Optimisers and learning rates from the fields of a config.

    {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip": 1.0, "schedule": {"name": "cosine", "warmup": 100}}

Sources: AdamW, Loshchilov and Hutter 2019 (arXiv 1711.05101); Lion, Chen et al. 2023 (arXiv 2302.06675); LARS, You et al.
2017 (arXiv 1708.03888); SGD with momentum and L2 decay as in Goyal et al. 2017 (arXiv 1706.02677). Weight decay leaves
parameters with fewer than two axes alone: biases and the scales of norms.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdec.typing import Array, Float, PyTree

Rate = Callable[[Any], Float[Array, ""]]
"""Learning rate, or a factor of it, by the updates made."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """Linear warm-up over ``warmup`` updates, then 1."""

    warmup: int = 0

    def factor(self, num_steps: int) -> Rate:
        """Of the learning rate."""
        return lambda step: _warm(step, self.warmup)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear warm-up over ``warmup`` updates, then half a cosine from 1 down to ``final`` at the last update."""

    warmup: int = 0
    final: float = 0.0

    def factor(self, num_steps: int) -> Rate:
        """Of the learning rate."""
        if self.warmup >= num_steps:
            raise ValueError(f"warmup must be below the number of updates, {num_steps}, got {self.warmup}")

        def factor(step):
            progress = jnp.clip((step - self.warmup) / (num_steps - self.warmup), 0, 1)
            return _warm(step, self.warmup) * (self.final + (1 - self.final) * _half_cosine(progress))

        return factor


@dataclasses.dataclass(frozen=True)
class MinWarmupCosine:
    """``min((e + 1) / warmup, (1 + cos(pi e / E)) / 2)`` in epoch ``e`` of ``E``: the published training script of CRATE.

    Yu et al. 2023 (arXiv 2306.01129), github.com/Ma-Lab-Berkeley/CRATE, main.py. The cosine begins with the first epoch and not
    behind the warm-up, so that the rate never reaches its maximum.

    Attributes:
      warmup: epochs.
      epoch: updates in one, during which the rate does not change; 1 changes it at every update.
    """

    warmup: int = 20
    epoch: int = 1

    def factor(self, num_steps: int) -> Rate:
        """Of the learning rate."""
        if self.warmup < 1 or self.epoch < 1:
            raise ValueError(f"warmup and epoch must be at least 1, got {self.warmup} and {self.epoch}")
        epochs = num_steps / self.epoch

        def factor(step):
            epoch = step // self.epoch
            return jnp.minimum((epoch + 1) / self.warmup, _half_cosine(epoch / epochs))

        return factor


def _warm(step, warmup: int):
    return jnp.minimum((step + 1) / warmup, 1.0) if warmup > 0 else jnp.float32(1)


def _half_cosine(progress):
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


@dataclasses.dataclass(frozen=True)
class AdamW:
    """``p <- p - rate (m / (sqrt(v) + eps) + weight_decay p)``, with ``m`` and ``v`` corrected for their start."""

    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def build(self, rate: Rate) -> optax.GradientTransformation:
        """The optax transformation."""
        return optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=decayed)


@dataclasses.dataclass(frozen=True)
class Lion:
    """``p <- p - rate (sign(b1 m + (1 - b1) g) + weight_decay p)``, ``m <- b2 m + (1 - b2) g``."""

    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.99

    def build(self, rate: Rate) -> optax.GradientTransformation:
        """The optax transformation."""
        return optax.lion(rate, self.b1, self.b2, weight_decay=self.weight_decay, mask=decayed)


@dataclasses.dataclass(frozen=True)
class SGD:
    """``m <- momentum m + g + weight_decay p``, ``p <- p - rate m``: decay goes into the gradient, as in PyTorch."""

    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False

    def build(self, rate: Rate) -> optax.GradientTransformation:
        """The optax transformation."""
        step = optax.sgd(rate, self.momentum or None, self.nesterov)
        return optax.chain(optax.add_decayed_weights(self.weight_decay, decayed), step) if self.weight_decay else step


@dataclasses.dataclass(frozen=True)
class LARS:
    """SGD whose step of each parameter is scaled by ``trust |p| / |g + weight_decay p|``, but for those without decay."""

    weight_decay: float = 1e-6
    momentum: float = 0.9
    trust: float = 0.001

    def build(self, rate: Rate) -> optax.GradientTransformation:
        """The optax transformation."""
        return optax.lars(
            rate,
            self.weight_decay,
            weight_decay_mask=decayed,
            trust_coefficient=self.trust,
            trust_ratio_mask=decayed,
            momentum=self.momentum,
        )


OPTIMIZERS = {"adamw": AdamW, "lion": Lion, "sgd": SGD, "lars": LARS}
SCHEDULES = {"constant": Constant, "cosine": Cosine, "min_warmup_cosine": MinWarmupCosine}


def decayed(params: PyTree) -> PyTree:
    """True for parameters that decay: those with two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(config: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
    """The optimiser that a config asks for.

    Args:
      config: ``name`` (adamw, lion, sgd, lars), ``learning_rate``, and any of ``clip`` (largest global norm of a gradient; 0,
        the default, clips nothing), ``schedule`` (``name``: constant, cosine or min_warmup_cosine, and its fields; constant by
        default) and the fields of the optimiser.
      num_steps: updates of the whole training.

    Raises:
      ValueError: an unknown name or field, a missing one, or a number out of range.
    """
    fields = dict(config)
    schedule = learning_rate(fields, num_steps)
    clip = fields.pop("clip", 0.0)
    if clip < 0:
        raise ValueError(f"clip of the optimizer must be at least 0, got {clip}")
    optimizer = _made("optimizer", OPTIMIZERS, fields).build(schedule)
    return optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer


def learning_rate(fields: dict[str, Any], num_steps: int) -> Rate:
    """The learning rate by the updates made; takes ``learning_rate`` and ``schedule`` out of ``fields``.

    Raises:
      ValueError: see :func:`make_optimizer`.
    """
    if "learning_rate" not in fields:
        raise ValueError(f"optimizer needs a learning_rate, got {', '.join(sorted(fields))}")
    rate = fields.pop("learning_rate")
    if rate <= 0:
        raise ValueError(f"learning_rate of the optimizer must be positive, got {rate}")
    factor = _made("schedule", SCHEDULES, dict(fields.pop("schedule", {"name": "constant"}))).factor(num_steps)
    return lambda step: rate * factor(step)


def _made(what: str, kinds: Mapping[str, Any], fields: dict[str, Any]) -> Any:
    name = fields.pop("name", None)
    if name not in kinds:
        raise ValueError(f"{what} must be one of {', '.join(kinds)}, got {name!r}")
    known = [field.name for field in dataclasses.fields(kinds[name])]
    for field in fields:
        if field not in known:
            raise ValueError(f"{what} {name}: unknown field {field!r}; known: {', '.join(sorted(known))}")
    return kinds[name](**fields)
