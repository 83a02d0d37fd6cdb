"""Class-incremental learning: streams, what an update may touch, and that a bottleneck remembers where a probe forgets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdec.models.key_value_bottleneck import BottleneckConfig
from jaxdec.models.probes import LinearProbe, MLPProbe
from jaxdec.training.class_incremental import (
    Examples,
    Learner,
    Stream,
    accuracy_by_class,
    bottleneck_learner,
    class_splits,
    iid_stream,
    incremental_stream,
    learn,
    logits,
)
from jaxdec.training.key_initialisation import initialise_keys
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

SLOW = pytest.mark.slow
SGD = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))
CONFIG = BottleneckConfig(embedding_dim=2, num_classes=4, value_dim=4, num_codebooks=3, num_pairs=12, key_dim=2)
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])


def corners(seed: int, each: int = 15) -> Examples:
    """Four blobs, a class each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), each)
    points = CORNERS[labels] + 0.05 * rng.normal(size=(4 * each, 2))
    return Examples(jnp.asarray(points, jnp.float32), jnp.asarray(labels, jnp.int32))


TRAIN, TEST = corners(0), corners(1)
SPLITS = class_splits(4, 1)
KEY_OPTIONS = {"batch_size": 25, "epochs": 4, "key": jax.random.key(1)}
LEARNER, PROBE = bottleneck_learner(CONFIG), Learner(LinearProbe(4), 4)


@functools.cache
def untrained(learner: Learner = LEARNER):
    return jax.jit(learner.module.init)(jax.random.key(0), TRAIN.embeddings)


@functools.cache
def begun(learner: Learner):
    variables = untrained(learner)
    if "bottleneck" not in variables:
        return variables
    return initialise_keys(learner.module, variables, TRAIN.embeddings, **KEY_OPTIONS)[0]


def test_splits_are_disjoint_and_shuffled_by_a_seed():
    assert class_splits(6, 2) == ((0, 1), (2, 3), (4, 5))
    shuffled = class_splits(6, 2, seed=1)
    assert shuffled != class_splits(6, 2)
    assert sorted(sum(shuffled, ())) == list(range(6))
    assert shuffled == class_splits(6, 2, seed=1) != class_splits(6, 2, seed=2)
    with pytest.raises(ValueError, match="classes_per_split must divide num_classes, 6; got 4"):
        class_splits(6, 4)


def test_a_stream_is_a_function_of_the_update_and_shows_every_example_as_often():
    labels = jnp.asarray([0, 1, 2, 0, 1, 2, 0, 0])
    stream = incremental_stream(labels, ((2, 1), (0,)), updates=6, batch_size=2, seed=3)
    np.testing.assert_array_equal(np.bincount(stream.rows(0).ravel(), minlength=8), [0, 3, 3, 0, 3, 3, 0, 0])
    np.testing.assert_array_equal(np.bincount(stream.rows(1).ravel(), minlength=8), [3, 0, 0, 3, 0, 0, 3, 3])
    for step in range(12):
        np.testing.assert_array_equal(stream.at(step), stream.rows(step // 6)[step % 6])
    assert (stream.rows(0) != dataclasses.replace(stream, seed=4).rows(0)).any()
    whole = iid_stream(labels, 2, updates=4, batch_size=2)
    np.testing.assert_array_equal(np.bincount(whole.rows(0).ravel(), minlength=8), 1)
    assert (whole.rows(0) != whole.rows(1)).any()
    few = incremental_stream(labels, ((2,),), updates=1, batch_size=5)
    assert set(few.at(0).tolist()) == {2, 5}


def test_keys_learn_whole_batches_in_orders_drawn_by_the_key():
    module, variables = LEARNER.module, untrained()
    first, errors = initialise_keys(module, variables, TRAIN.embeddings, **KEY_OPTIONS)
    again, _ = initialise_keys(module, variables, TRAIN.embeddings, **KEY_OPTIONS)
    other, _ = initialise_keys(module, variables, TRAIN.embeddings, **{**KEY_OPTIONS, "key": jax.random.key(2)})
    assert errors.shape == (8,)  # 60 embeddings are two batches of 25
    assert float(errors[-2:].mean()) < float(errors[0]) / 4
    keys = [found["bottleneck"]["codebooks"].keys for found in (first, again, other)]
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).any()
    assert int(first["bottleneck"]["key_updates"]) == 8
    assert int(variables["bottleneck"]["key_updates"]) == 0, "what was given changed"
    for changes, message in (
        ({"batch_size": 61}, "embeddings must fill a batch of 61; got 60"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            initialise_keys(module, variables, TRAIN.embeddings, **{**KEY_OPTIONS, **changes})
    with pytest.raises(ValueError, match="embeddings must be finite"):
        initialise_keys(module, variables, TRAIN.embeddings * jnp.nan, **KEY_OPTIONS)


def test_a_bottleneck_remembers_what_a_probe_forgets():
    stream = incremental_stream(TRAIN.labels, SPLITS, updates=40, batch_size=10)
    variables = begun(LEARNER)
    ours = learn(LEARNER, SGD, variables, TRAIN, TEST, stream)
    np.testing.assert_array_equal(ours.accuracy, np.tri(4))  # every class seen so far, and no other
    assert ours.losses.shape == (160,)
    theirs = learn(PROBE, optax.sgd(2.0), begun(PROBE), TRAIN, TEST, stream)
    assert theirs.accuracy[-1].mean() <= 0.5

    # Encoder, projections and keys are what they were; values that were never fetched are, too.
    for before, after in zip(*(jax.tree.leaves(found["bottleneck"]) for found in (variables, ours.variables))):
        np.testing.assert_array_equal(before, after)
    hits, values = np.asarray(ours.variables["usage"]["hits"]), np.asarray(ours.variables["params"]["values"])
    assert hits.sum() == 3 * 160 * 10
    np.testing.assert_array_equal((values != 0).any(-1), hits > 0)
    assert (hits == 0).any(), "nothing is tested"
    assert not np.asarray(variables["usage"]["hits"]).any(), "what was given changed"

    # Classes that share no pair leave the logits of each other as they are, to the bit.
    first = learn(LEARNER, SGD, variables, TRAIN, TEST, dataclasses.replace(stream, parts=stream.parts[:1]))
    fetch = jax.jit(lambda embeddings: LEARNER.module.apply(variables, embeddings, method="fetch").index)
    places = np.asarray(fetch(TRAIN.embeddings))[:, :, 0, 0]
    for mine, theirs in zip(places[stream.parts[0]].T, places[np.concatenate(stream.parts[1:])].T):
        assert set(mine).isdisjoint(theirs), "nothing is tested"
    seen = TRAIN.embeddings[stream.parts[0]]
    plain = dataclasses.replace(LEARNER, evaluate="__call__")
    np.testing.assert_array_equal(logits(plain, first.variables, seen), logits(plain, ours.variables, seen))


@pytest.mark.slow
def test_all_classes_at_once_and_smoothing():
    probe = Learner(MLPProbe(4, width=16), 4)
    stream = iid_stream(TRAIN.labels, 2, updates=100, batch_size=20)
    found = learn(probe, optax.sgd(0.5), begun(probe), TRAIN, TEST, stream)
    assert found.accuracy.shape == (2, 4)
    assert found.accuracy[-1].mean() > 0.9
    uniform = np.log(4)
    assert found.losses[0] == pytest.approx(uniform, abs=0.7)
    least = -(0.925 * np.log(0.925) + 0.075 * np.log(0.025))  # the entropy of a smoothed target
    assert least < found.losses.min() < uniform / 2 + least


def test_accuracy_by_class():
    found = accuracy_by_class(jnp.asarray([[1.0, 0], [1, 0], [0, 1], [1, 0]]), jnp.asarray([0, 1, 1, 1]))
    np.testing.assert_allclose(found, [1, 1 / 3])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"train": TRAIN._replace(labels=TRAIN.labels + 1)}, ValueError, "labels of train must be in 0..3; got 4"),
        ({"test": TEST._replace(labels=TEST.labels - 1)}, ValueError, "labels of test must be in 0..3; got -1"),
        ({"train": TRAIN._replace(labels=TRAIN.labels[1:])}, ValueError, "train must have a label for each .*; got 60 and 59"),
        ({"test": Examples(*(part[:45] for part in TEST))}, ValueError, r"test must have all 4 classes; got \[0, 1, 2\]"),
        ({"train": TRAIN._replace(embeddings=TRAIN.embeddings.at[3].set(jnp.nan))}, ValueError, "must be finite"),
        pytest.param({"optimizer": optax.sgd(1e38)}, FloatingPointError, r"the loss of update \d+ is not finite", marks=SLOW),
    ],
)  # fmt: skip
def test_learning_refuses(changes, error, message):
    stream = incremental_stream(TRAIN.labels, SPLITS, updates=3, batch_size=5)
    arguments = {"optimizer": SGD, "variables": begun(PROBE), "train": TRAIN, "test": TEST, "stream": stream}
    with pytest.raises(error, match=message):
        learn(PROBE, **{**arguments, **changes})


def test_a_bottleneck_refuses_untrained_keys_and_optimisers_that_forget():
    stream = incremental_stream(TRAIN.labels, SPLITS, updates=2, batch_size=5)
    with pytest.raises(ValueError, match="learn keys before values"):
        learn(LEARNER, SGD, untrained(), TRAIN, TEST, stream)
    with pytest.raises(ValueError, match="optimizer must leave rows of 'values' alone that have no gradient"):
        learn(LEARNER, optax.sgd(0.1, momentum=0.9), begun(LEARNER), TRAIN, TEST, stream)


@pytest.mark.slow
def test_an_optimiser_that_forgets_can_be_allowed():
    stream = incremental_stream(TRAIN.labels, SPLITS, updates=2, batch_size=5)
    found = learn(LEARNER, optax.adam(1e-2), begun(LEARNER), TRAIN, TEST, stream, allow_moving=True)
    assert np.isfinite(found.losses).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"parts": (np.arange(2), np.arange(0))}, "parts must have an example each; split 1 has none"),
    ],
)
def test_streams_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        Stream(**{"parts": (np.arange(2),), "updates": 1, "batch_size": 1, **changes})
