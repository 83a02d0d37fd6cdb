"""Rounds are interleaved, loud ones repeated, and medians taken."""

import itertools
import json
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Case, Record, run_rounds, summarise, summary, turns

SIDES = ("a", "b", "c")
names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True)


@given(names, st.integers(0, 100))
def test_everybody_has_one_turn_a_round(sides, round_):
    assert sorted(turns(sides, round_)) == sorted(sides)


@given(names, st.integers(0, 20))
def test_over_two_n_rounds_everybody_has_every_place_twice(sides, start):
    rounds = [turns(sides, 2 * start + i) for i in range(2 * len(sides))]
    for place in range(len(sides)):
        assert Counter(order[place] for order in rounds) == dict.fromkeys(sides, 2)


@given(st.integers(3, 6), st.integers(0, 20))
def test_nobody_always_follows_the_same_neighbour(count, start):
    sides = "abcdef"[:count]
    rounds = [turns(sides, 2 * start + i) for i in range(2)]
    followed = [{(first, second) for first, second in itertools.pairwise(order)} for order in rounds]
    assert not followed[0] & followed[1]


class FakeWorker:
    """Answers with numbers from a list, and writes down when it was asked."""

    def __init__(self, name, log, numbers):
        self.name, self.log, self.numbers = name, log, iter(numbers)

    def call(self, method, **arguments):
        assert method == "measure"
        self.log.append((self.name, arguments))
        value = next(self.numbers)
        if isinstance(value, BaseException) or value is KeyboardInterrupt:
            raise value
        return {"rate": value, "other": -value}

    def cpu_seconds(self):
        return 0.0


@pytest.fixture
def loads(monkeypatch):
    """Foreign loads of the coming measurements, zero when used up."""
    coming = []

    class Meter:
        def __init__(self, own):
            assert own() == 0.0

        def start(self):
            pass

        def stop(self):
            return {"foreign_load": coming.pop(0) if coming else 0.0, "stolen": 0.0, "wall_seconds": 1.0}

    monkeypatch.setattr(harness, "LoadMeter", Meter)
    return coming


def workers(log, **numbers):
    return {name: FakeWorker(name, log, values) for name, values in numbers.items()}


def open_record(tmp_path, rounds=9, **key):
    return Record.open(tmp_path / "partial.json", key, rounds)


def test_rounds_interleave_cases_and_sides(tmp_path, loads):
    log = []
    cases = [Case("one", ("a", "b"), "rate", {"n": 1}), Case("two", ("b",), "rate", {"n": 2})]
    record = open_record(tmp_path)
    run_rounds(cases, workers(log, a=range(9), b=range(9)), record, rounds=3)
    first, second = {"n": 1}, {"n": 2}
    assert log == [
        ("a", first), ("b", first), ("b", second),
        ("b", first), ("a", first), ("b", second),
        ("b", first), ("a", first), ("b", second),
    ]  # fmt: skip
    assert [(entry["case"], entry["round"], entry["attempt"]) for entry in record.attempts] == [
        (name, round_, 0) for round_ in range(3) for name in ("one", "two")
    ]


def test_loud_rounds_are_repeated_until_one_is_quiet(tmp_path, loads):
    loads += [0.0, 0.5, 0.3, 0.0, 0.0, 0.10]  # per side: the last attempt's 0.10 is the limit, and quiet
    record = open_record(tmp_path)
    case = Case("one", ("a", "b"), "rate")
    run_rounds([case], workers([], a=[1, 2, 3], b=[10, 20, 30]), record, rounds=1, repeats=5)
    assert [entry["loud"] for entry in record.attempts] == [True, True, False]
    assert [entry["attempt"] for entry in record.attempts] == [0, 1, 2]
    row = summarise(case, "a", record)
    assert row["metrics"]["rate"]["samples"] == [3]
    assert row["loud_rounds"] == 0
    assert row["foreign_load"]["samples"] == [0.0]
    assert summarise(case, "b", record)["foreign_load"]["samples"] == [0.10]


def test_the_least_loud_attempt_counts_and_says_so(tmp_path, loads):
    loads += [0.9, 0.0, 0.2, 0.3, 0.0, 0.8]  # the loudest side of each attempt: 0.9, 0.3, 0.8
    record = open_record(tmp_path)
    case = Case("one", ("a", "b"), "rate")
    run_rounds([case], workers([], a=[1, 2, 3], b=[10, 20, 30]), record, rounds=1, repeats=2)
    assert len(record.attempts) == 3
    row = summarise(case, "a", record)
    assert row["metrics"]["rate"]["samples"] == [2]
    assert (row["rounds"], row["loud_rounds"]) == (1, 1)


def test_a_quiet_attempt_counts_even_if_a_loud_one_came_close(tmp_path, loads):
    record = open_record(tmp_path)
    for attempt, (loud, load) in enumerate([(True, 0.01), (False, 0.05)]):  # another limit was in force at first
        measurements = {"a": {"metrics": {"rate": attempt}, "foreign_load": load, "stolen": None, "wall_seconds": 1.0}}
        record.add({"case": "one", "round": 0, "attempt": attempt, "loud": loud, "measurements": measurements})
    assert [entry["attempt"] for entry in record.chosen("one")] == [1]


def test_an_unknown_load_is_not_loud(tmp_path, loads):
    loads += [None, None]
    record = open_record(tmp_path)
    case = Case("one", ("a",), "rate")
    run_rounds([case], workers([], a=[1, 2]), record, rounds=2)
    row = summarise(case, "a", record)
    assert (row["rounds"], row["loud_rounds"], row["foreign_load"]) == (2, 0, None)
    assert row["stolen"]["median"] == 0.0


def test_ratios_are_taken_inside_a_round(tmp_path, loads):
    """The machine slows down tenfold half way: medians of each side say nothing, the ratio stays two."""
    record = open_record(tmp_path)
    case = Case("one", ("a", "b"), "rate")
    mine, theirs = [200.0, 210.0, 20.0, 21.0, 22.0], [100.0, 105.0, 10.0, 10.5, 11.0]
    run_rounds([case], workers([], a=mine, b=theirs), record, rounds=5)
    row = summarise(case, "a", record)
    assert row["ratios"]["b"]["samples"] == [2.0] * 5
    assert summarise(case, "b", record)["ratios"]["a"]["median"] == 0.5
    assert row["metrics"]["rate"] == {"median": 22.0, "min": 20.0, "max": 210.0, "samples": mine}
    assert row["metrics"]["other"]["max"] == -20.0


def test_ratios_use_the_metric_of_the_case(tmp_path, loads):
    record = open_record(tmp_path)
    case = Case("one", ("a", "b"), "other")
    run_rounds([case], workers([], a=[6.0], b=[2.0]), record, rounds=1)
    assert summarise(case, "a", record)["ratios"] == {"b": summary([3.0])}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, loads):
    cases = [Case("one", ("a", "b"), "rate"), Case("two", ("a",), "rate")]
    numbers = {"a": [1, 2, 3], "b": [10, KeyboardInterrupt]}
    with pytest.raises(KeyboardInterrupt):
        run_rounds(cases, workers([], **numbers), open_record(tmp_path, commit="x"), rounds=3)
    log, again = [], open_record(tmp_path, commit="x")
    assert [(entry["case"], entry["round"]) for entry in again.attempts] == [("one", 0), ("two", 0)]
    seen = []
    run_rounds(cases, workers(log, a=range(20, 30), b=range(30, 40)), again, rounds=3, on_attempt=seen.append)
    assert [(entry["case"], entry["round"]) for entry in seen] == [("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    assert summarise(cases[0], "a", again)["metrics"]["rate"]["samples"][0] == 1
    assert summarise(cases[0], "b", again)["metrics"]["rate"]["samples"][0] == 10
    run_rounds(cases, {}, again, rounds=3)  # nothing is left to do


def test_loud_attempts_count_across_an_interruption(tmp_path, loads):
    loads += [0.5, 0.5]
    case = Case("one", ("a",), "rate")
    with pytest.raises(KeyboardInterrupt):
        run_rounds([case], workers([], a=[1, 2, KeyboardInterrupt]), open_record(tmp_path), rounds=1, repeats=2)
    record = open_record(tmp_path)
    loads += [0.5]
    run_rounds([case], workers([], a=[3]), record, rounds=1, repeats=2)
    assert [entry["attempt"] for entry in record.attempts] == [0, 1, 2]


def test_a_different_key_starts_over(tmp_path, loads):
    case = Case("one", ("a",), "rate")
    run_rounds([case], workers([], a=[1]), open_record(tmp_path, commit="x"), rounds=1)
    assert len(open_record(tmp_path, commit="x").attempts) == 1
    assert open_record(tmp_path, commit="y").attempts == []
    assert open_record(tmp_path, commit="x", more=1).attempts == []
    assert len(open_record(tmp_path, commit="x").attempts) == 1  # opening loses nothing


def test_keys_are_compared_as_they_are_stored(tmp_path):
    record = open_record(tmp_path, sides=("a", "b"), numbers={1: 0.1})
    record.add({"case": "one", "round": 0, "loud": False, "measurements": {}})
    assert len(open_record(tmp_path, sides=["a", "b"], numbers={"1": 0.1}).attempts) == 1


def test_rounds_beyond_those_asked_for_are_dropped(tmp_path, loads):
    case = Case("one", ("a",), "rate")
    run_rounds([case], workers([], a=[1, 2, 3]), open_record(tmp_path), rounds=3)
    assert [entry["round"] for entry in open_record(tmp_path, rounds=2).attempts] == [0, 1]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"key": {}}', "null", '{"attempts": [1]}'])
def test_what_is_no_record_starts_over(tmp_path, content):
    (tmp_path / "partial.json").write_text(content)
    assert open_record(tmp_path).attempts == []


def test_every_attempt_is_on_disk_when_it_is_reported(tmp_path, loads):
    record = open_record(tmp_path)

    def check(attempt):
        assert json.loads(record.path.read_text())["attempts"][-1] == attempt

    run_rounds([Case("one", ("a",), "rate")], workers([], a=[1, 2]), record, rounds=2, on_attempt=check)


def test_waiting_for_quiet_is_noted(tmp_path, loads, monkeypatch):
    waits = []
    monkeypatch.setattr(harness, "wait_quiet", lambda seconds: waits.append(seconds) or False)
    record = open_record(tmp_path)
    run_rounds([Case("one", ("a", "b"), "rate")], workers([], a=[1], b=[2]), record, rounds=1, quiet_seconds=60.0)
    assert waits == [60.0]
    assert record.attempts[0]["quiet_before"] is False


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_summary(samples):
    assert summary(iter(samples)) == {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": samples,
    }
