"""Batches: every example once an epoch, another order each time, a function of the step, the same whoever reads."""

import numpy as np
import pytest

from jaxdec.data import ArraySource, InOrder, MappedSource, batches
from jaxdec.data.sources import stacked

SOURCE = ArraySource({"x": np.arange(20).reshape(10, 2), "label": np.arange(10)})


def labels(found):
    return found["label"].tolist()


def test_every_example_is_seen_once_an_epoch_in_another_order():
    read = batches(SOURCE, 4, seed=0)
    seen = [label for step in range(15) for label in labels(read.at(step))]  # six epochs, some batches across two
    epochs = [seen[begin : begin + 10] for begin in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6
    assert list(range(10)) not in epochs


def test_a_batch_is_a_function_of_seed_and_step():
    read = batches(SOURCE, 4, seed=5)
    late = read.at(7)
    read.at(0)
    np.testing.assert_array_equal(late["x"], batches(SOURCE, 4, seed=5).at(7)["x"])
    np.testing.assert_array_equal(late["x"], np.stack([2 * late["label"], 2 * late["label"] + 1], axis=1))
    assert labels(batches(SOURCE, 10, seed=6).at(0)) != labels(batches(SOURCE, 10, seed=5).at(0))


def test_neighbouring_seeds_do_not_share_epochs():
    orders = [{tuple(labels(batches(SOURCE, 10, seed=seed).at(epoch))) for epoch in range(5)} for seed in (0, 1)]
    assert not orders[0] & orders[1]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_all_processes_are_the_batch_in_order(count):
    whole = batches(SOURCE, 8, seed=1)
    parts = [batches(SOURCE, 8, seed=1, part=(index, count)) for index in range(count)]
    for step in (0, 3):
        together = np.concatenate([part.at(step)["label"] for part in parts])
        np.testing.assert_array_equal(together, whole.at(step)["label"])


def test_without_shuffling_and_for_evaluation_the_order_is_the_source_s():
    read = batches(SOURCE, 4, seed=0, shuffle=False)
    assert [labels(read.at(step)) for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert [labels(batch) for batch in InOrder(SOURCE, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(InOrder(SOURCE, 4)) == 3
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        InOrder(SOURCE, 0)


def test_examples_that_are_read_one_by_one_are_stacked():
    doubled = MappedSource(SOURCE, lambda example: {"x": 2 * example["x"], "label": example["label"]})
    one, other = batches(doubled, 4, seed=2).at(1), batches(SOURCE, 4, seed=2).at(1)
    np.testing.assert_array_equal(one["x"], 2 * other["x"])
    np.testing.assert_array_equal(one["label"], other["label"])
    with pytest.raises(ValueError, match=r"field 'x' has different shapes in one batch, \(2,\) and \(3,\)"):
        stacked([{"x": np.zeros(2)}, {"x": np.zeros(3)}])
    with pytest.raises(ValueError, match=r"different fields: \['x'\] and \['y'\]"):
        stacked([{"x": np.zeros(2)}, {"y": np.zeros(2)}])


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "batch_size must be between 1 and the number of examples, 10, got 0"),
        (11, {}, "batch_size must be between 1 and the number of examples, 10, got 11"),
        (5, {"part": (0, 2)}, "batch_size must be divisible by the number of reading processes, 2, got 5"),
        (4, {"part": (2, 2)}, r"part must be \(index, count\) with 0 <= index < count, got \(2, 2\)"),
        (4, {"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_input(size, options, message):
    with pytest.raises(ValueError, match=message):
        batches(SOURCE, size, **{"seed": 0, **options})


def test_arrays_of_a_source_have_one_length():
    with pytest.raises(ValueError, match=r"same number of examples, at least one, got \{'x': 3, 'y': 2\}"):
        ArraySource({"x": np.zeros(3), "y": np.zeros(2)})
    with pytest.raises(ValueError, match="at least one"):
        ArraySource({})
