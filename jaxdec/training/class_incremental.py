"""Class-incremental learning: classes come in splits, one after another, and nothing says where one ends.

The protocol of the Discrete Key-Value Bottleneck (Traeuble et al. 2023, arXiv 2207.11240): classes are divided into disjoint
splits, a learner makes many passes over each, and after each the accuracy on all classes is taken, those that have not come yet
among them. The loss is over all classes throughout. The same learner on examples of all classes at once, with as many updates,
says what it could have learned (*iid*).

The examples of an update are a pure function of its number. One example comes as often as another: batches are cut from one
order of the split after another.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdec.models.key_value_bottleneck import BottleneckConfig, KeyValueBottleneck, check_finite, check_keys_learned
from jaxdec.training.local_updates import check_resting_rows_stay
from jaxdec.typing import Array, Float, Int


class Examples(NamedTuple):
    """Embeddings of a frozen encoder, and classes."""

    embeddings: Float[Array, "N *n M"]
    labels: Int[Array, "N"]


@dataclasses.dataclass(frozen=True)
class Learner:
    """A Flax module that classifies, and how it is trained.

    Attributes:
      module: from embeddings to logits.
      num_classes: logits.
      train: method that gives logits while training.
      evaluate: method that gives logits afterwards.
      counts: collections that training changes beside the parameters.
      local: parameter whose rows must stay as they are while they have no gradient; empty if there is none.
    """

    module: nn.Module
    num_classes: int
    train: str = "__call__"
    evaluate: str = "__call__"
    counts: tuple[str, ...] = ()
    local: str = ""


def bottleneck_learner(config: BottleneckConfig) -> Learner:
    """A key-value bottleneck that counts what it fetches, and is asked among those pairs."""
    module = KeyValueBottleneck(config)
    return Learner(module, config.num_classes, "train_values", "evaluate", ("usage",), "values")


def class_splits(num_classes: int, classes_per_split: int, seed: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Disjoint splits of all classes, in order; shuffled if there is a seed.

    Raises:
      ValueError: sizes below 1, or classes that do not divide evenly.
    """
    if num_classes < 1 or classes_per_split < 1 or num_classes % classes_per_split:
        raise ValueError(f"classes_per_split must divide num_classes, {num_classes}; got {classes_per_split}")
    order = np.arange(num_classes) if seed is None else np.random.default_rng(seed).permutation(num_classes)
    return tuple(tuple(row) for row in order.reshape(-1, classes_per_split).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Which examples each update sees.

    Attributes:
      parts: of each split, the places of its examples in the training set.
      updates: of each split.
      batch_size: examples of an update; of a split that has fewer, some come twice in a batch.
      seed: of the orders.
    """

    parts: tuple[np.ndarray, ...]
    updates: int
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        for name in ("updates", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for number, part in enumerate(self.parts):
            if not len(part):
                raise ValueError(f"parts must have an example each; split {number} has none")

    def rows(self, split: int) -> np.ndarray:
        """Places ``int32[updates, batch_size]`` of the examples of a split's updates."""
        rng, part, count = np.random.default_rng((self.seed, split)), self.parts[split], self.updates * self.batch_size
        orders = [rng.permutation(part) for _ in range(-(-count // len(part)))]
        return np.concatenate(orders)[:count].reshape(self.updates, self.batch_size).astype(np.int32)

    def at(self, step: int) -> np.ndarray:
        """Places ``int32[batch_size]`` of the examples of one update."""
        return self.rows(step // self.updates)[step % self.updates]


def incremental_stream(
    labels: Int[Array, "N"], splits: Sequence[Sequence[int]], updates: int, batch_size: int, seed: int = 0
) -> Stream:
    """Split after split.

    Raises:
      ValueError: a split without examples, or sizes below 1.
    """
    known = np.asarray(labels)
    return Stream(tuple(np.flatnonzero(np.isin(known, split)) for split in splits), updates, batch_size, seed)


def iid_stream(labels: Int[Array, "N"], num_splits: int, updates: int, batch_size: int, seed: int = 0) -> Stream:
    """All classes at once, with as many updates as ``num_splits`` splits have."""
    return Stream((np.arange(len(labels)),) * num_splits, updates, batch_size, seed)


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
      accuracy: by split and class, float64 ``[S, Y]``; the mean over classes is the metric.
      losses: float32, of each update.
      variables: of the learner, after the last update.
    """

    accuracy: np.ndarray
    losses: np.ndarray
    variables: dict[str, Any]


def learn(
    learner: Learner,
    optimizer: optax.GradientTransformation,
    variables: Mapping[str, Any],
    train: Examples,
    test: Examples,
    stream: Stream,
    *,
    label_smoothing: float = 0.1,
    allow_moving: bool = False,
) -> Outcome:
    """Train on a stream, and take the accuracy on all classes after each split.

    Args:
      learner: what learns.
      optimizer: an optax optimiser; its state goes on from split to split.
      variables: where to begin; they are not changed. Keys of a bottleneck must have learned.
      train: examples.
      test: examples of every class.
      stream: which of ``train`` each update sees.
      label_smoothing: share of a target that is spread over all classes.
      allow_moving: allow an optimiser that moves values which were not fetched.

    Raises:
      ValueError: labels out of range or missing, embeddings that are not finite, keys that have not learned, an optimiser that
        moves what it should not, ``label_smoothing`` outside of [0, 1).
      FloatingPointError: a loss that is not finite.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    for name, examples in {"train": train, "test": test}.items():
        check_examples(name, examples, learner.num_classes)
    if len(np.unique(test.labels)) < learner.num_classes:
        raise ValueError(f"test must have all {learner.num_classes} classes; got {np.unique(test.labels).tolist()}")
    if "bottleneck" in variables:
        check_keys_learned(variables["bottleneck"]["key_updates"])
    if learner.local and not allow_moving:
        check_resting_rows_stay(optimizer, variables["params"], learner.local)
    fixed = {name: value for name, value in variables.items() if name not in ("params", *learner.counts)}
    counts = {name: variables[name] for name in learner.counts}
    state = (variables["params"], counts, optimizer.init(variables["params"]))
    accuracy, losses = [], []
    for split in range(len(stream.parts)):
        rows = jnp.asarray(stream.rows(split))
        state, found = _train(learner, optimizer, label_smoothing, state, fixed, train, rows)
        losses.append(np.asarray(found))
        if not np.isfinite(losses[-1]).all():
            update = split * stream.updates + int(np.argmin(np.isfinite(losses[-1])))
            raise FloatingPointError(f"the loss of update {update} is not finite: training has diverged")
        variables = {"params": state[0], **state[1], **fixed}
        accuracy.append(accuracy_by_class(logits(learner, variables, test.embeddings), test.labels))
    return Outcome(np.stack(accuracy), np.concatenate(losses), dict(variables))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(learner, optimizer, label_smoothing, state, fixed, train, rows):
    """All updates of one split."""

    def update(state, row):
        params, counts, opt_state = state
        targets = optax.smooth_labels(jax.nn.one_hot(train.labels[row], learner.num_classes), label_smoothing)

        def loss(params):
            found, changed = learner.module.apply(
                {"params": params, **counts, **fixed},
                train.embeddings[row],
                method=learner.train,
                mutable=list(learner.counts),
            )
            return optax.softmax_cross_entropy(found, targets).mean(), dict(changed)

        (value, counts), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        changes, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, changes), counts, opt_state), value

    return jax.lax.scan(update, state, rows)


@functools.partial(jax.jit, static_argnums=0)
def logits(learner: Learner, variables: Mapping[str, Any], embeddings: Float[Array, "N *n M"]) -> Float[Array, "N Y"]:
    """What a learner says after training."""
    return learner.module.apply(variables, embeddings, method=learner.evaluate)  # type: ignore[return-value]


def accuracy_by_class(logits: Float[Array, "N Y"], labels: Int[Array, "N"]) -> np.ndarray:
    """Share of the examples of each class whose largest logit is theirs, float64 ``[Y]``; every class must have some."""
    right, known = np.asarray(logits).argmax(-1) == np.asarray(labels), np.asarray(labels)
    return np.array([right[known == label].mean() for label in range(logits.shape[1])])


def check_examples(name: str, examples: Examples, num_classes: int) -> None:
    """Raise ValueError for labels out of range, embeddings that are not finite, or another number of one than of the other."""
    embeddings, labels = examples
    if len(embeddings) != len(labels) or not len(labels):
        raise ValueError(f"{name} must have a label for each embedding; got {len(embeddings)} and {len(labels)}")
    known = np.asarray(labels)
    if known.min() < 0 or known.max() >= num_classes:
        wrong = known[(known < 0) | (known >= num_classes)][0]
        raise ValueError(f"labels of {name} must be in 0..{num_classes - 1}; got {wrong}")
    check_finite(embeddings)
