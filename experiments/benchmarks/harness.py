"""Rounds of measurements, interleaved: within a round the sides of a case take turns, one at a time.

What drifts (clock, neighbours, memory) then drifts for all sides alike, so ratios are taken inside one round and only then
summarised. A round in which others kept more than :data:`LOUD` of a core busy is *loud*: it is repeated a few times, and if
it never gets quiet its least loud attempt counts and the row says so. Every attempt is stored as soon as it is made; a run
that was interrupted goes on where it stopped.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.benchmarks.machine import LoadMeter, wait_quiet
from experiments.record import write_json

LOUD = 0.10
"""Foreign load, in cores, above which a measurement is not trusted."""


class Worker(Protocol):
    """Something that can be measured: :class:`~experiments.benchmarks.worker_process.WorkerProcess`, or a fake."""

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the engine."""
        ...

    def reset_peak_rss(self) -> bool:
        """Forget the largest resident set so far, where the system can."""
        ...

    def peak_rss(self) -> int | None:
        """Largest resident set since it was forgotten (since the start if it cannot be), in bytes."""
        ...

    def cpu_seconds(self) -> float | None:
        """Processor seconds used so far."""
        ...


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to measure on several sides.

    Attributes:
      name: unique in the suite.
      sides: who takes part, in order.
      metric: the metric that ratios are taken of.
      arguments: handed to the ``warm_up`` and ``measure`` methods of every side; JSON.
    """

    name: str
    sides: tuple[str, ...]
    metric: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Record:
    """All attempts of a run, on disk from the first one on.

    Attributes:
      path: a JSON file.
      key: what must agree for a stored record to be continued (suite, commit, machine, versions, ...).
      attempts: one entry per attempt: ``case``, ``round``, ``attempt``, ``loud``, ``measurements`` by side.
    """

    path: Path
    key: dict[str, Any]
    attempts: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def open(cls, path: Path, key: dict[str, Any], rounds: int) -> "Record":
        """Continue the record at ``path`` if it was made under the same ``key``, else begin an empty one.

        Rounds from ``rounds`` on, which an earlier run with more of them may have left, are dropped.
        """
        key = json.loads(json.dumps(key))  # as it would be read back
        try:
            stored = json.loads(path.read_text())
            same, attempts = stored["key"] == key, stored["attempts"]
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is no record
            return cls(path, key)
        return cls(path, key, [entry for entry in attempts if entry["round"] < rounds] if same else [])

    def add(self, attempt: dict[str, Any]):
        """Append and save."""
        self.attempts.append(attempt)
        write_json(self.path, {"key": self.key, "attempts": self.attempts})

    def of_round(self, case: str, round_: int) -> list[dict[str, Any]]:
        """All attempts at one round of a case."""
        return [entry for entry in self.attempts if (entry["case"], entry["round"]) == (case, round_)]

    def chosen(self, case: str) -> list[dict[str, Any]]:
        """The attempt that counts of every round of a case: a quiet one, else the least loud."""
        rounds = sorted({entry["round"] for entry in self.attempts if entry["case"] == case})
        return [
            min(self.of_round(case, round_), key=lambda entry: (entry["loud"], loudest(entry))) for round_ in rounds
        ]


def loudest(attempt: Mapping[str, Any]) -> float:
    """Largest foreign load of an attempt."""
    return max((entry["foreign_load"] or 0.0 for entry in attempt["measurements"].values()), default=0.0)


def turns(sides: Sequence[str], round_: int) -> list[str]:
    """Order of the sides in a round.

    Every other round runs backwards, so that nobody always follows the same neighbour, and every two rounds begin one side
    later: over ``2 len(sides)`` rounds each side has each place twice.
    """
    first = round_ // 2 % len(sides)
    order = [*sides[first:], *sides[:first]]
    return order[::-1] if round_ % 2 else order


def run_rounds(
    cases: Sequence[Case],
    workers: Mapping[str, Worker],
    record: Record,
    *,
    rounds: int,
    repeats: int = 2,
    loud: float = LOUD,
    quiet_seconds: float = 0.0,
    on_attempt: Callable[[dict[str, Any]], None] = lambda attempt: None,
):
    """Measure every case ``rounds`` times; rounds already in ``record`` are not measured again.

    Args:
      cases: what to measure.
      workers: by side; each has ``measure(**case.arguments)``, which returns a dictionary of numbers.
      record: where the attempts go.
      rounds: rounds per case.
      repeats: how often a loud round is repeated.
      loud: see :data:`LOUD`.
      quiet_seconds: wait this long at most for a quiet machine before each attempt.
      on_attempt: called after each attempt.
    """
    for round_ in range(rounds):
        for case in cases:
            while not _settled(record.of_round(case.name, round_), repeats):
                quiet = wait_quiet(quiet_seconds) if quiet_seconds > 0 else None
                measurements = {side: _measure(workers[side], case) for side in turns(case.sides, round_)}
                attempt = {
                    "case": case.name,
                    "round": round_,
                    "attempt": len(record.of_round(case.name, round_)),
                    "quiet_before": quiet,
                    "measurements": measurements,
                }
                attempt["loud"] = loudest(attempt) > loud
                record.add(attempt)
                on_attempt(attempt)


def _settled(attempts: Sequence[Mapping[str, Any]], repeats: int) -> bool:
    return len(attempts) > repeats or any(not attempt["loud"] for attempt in attempts)


def _measure(worker: Worker, case: Case) -> dict[str, Any]:
    meter = LoadMeter(worker.cpu_seconds)
    meter.start()
    metrics = worker.call("measure", **case.arguments)
    return {"metrics": metrics, **meter.stop()}


def summary(samples: Iterable[float]) -> dict[str, Any]:
    """Median, min and max of the samples, and the samples."""
    samples = list(samples)
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def summarise(case: Case, side: str, record: Record) -> dict[str, Any]:
    """One row: every metric of a side over the rounds of a case, and its ratio to every other side, round by round."""
    chosen = record.chosen(case.name)
    own = [entry["measurements"][side] for entry in chosen]
    ratios = {}
    for other in case.sides:
        if other != side:
            theirs = [entry["measurements"][other] for entry in chosen]
            pairs = zip(own, theirs)
            ratios[other] = summary(ours["metrics"][case.metric] / peer["metrics"][case.metric] for ours, peer in pairs)
    loads = [entry["foreign_load"] for entry in own if entry["foreign_load"] is not None]
    stolen = [entry["stolen"] for entry in own if entry["stolen"] is not None]
    return {
        "case": case.name,
        "side": side,
        "metric": case.metric,
        "metrics": {name: summary(entry["metrics"][name] for entry in own) for name in own[0]["metrics"]},
        "ratios": ratios,
        "rounds": len(own),
        "loud_rounds": sum(entry["loud"] for entry in chosen),
        "foreign_load": summary(loads) if loads else None,
        "stolen": summary(stolen) if stolen else None,
    }
