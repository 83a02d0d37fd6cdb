"""What every suite does: start the workers, warm up, measure in rounds, sum up, and write one JSON file."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.benchmarks.harness import Case, Record, Worker, loudest, run_rounds, summarise
from experiments.benchmarks.worker_process import WorkerError, WorkerProcess
from experiments.record import sources_digest, write_json

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
      out: folder of the results.
      rounds: rounds per case.
      smoke: tiny random models, two rounds by default, no claim.
      wait_quiet: seconds to wait for a quiet machine before each attempt.
      repeats: how often a loud round is repeated.
      model: the model of the suites that take one.
    """

    out: Path
    rounds: int
    smoke: bool = False
    wait_quiet: float = 0.0
    repeats: int = 2
    model: str = "smollm2-135m-instruct"


@dataclasses.dataclass(frozen=True)
class Side:
    """One engine to be started.

    Attributes:
      name: unique in the suite.
      target: ``"module:class"``, see :mod:`experiments.benchmarks.worker`.
      options: of the class.
      peer: somebody else's engine: if it does not load, the suite goes on without it.
      missing: why it cannot be started at all (packages, files), or empty.
    """

    name: str
    target: str
    options: Mapping[str, Any]
    peer: bool = False
    missing: str = ""


@dataclasses.dataclass
class Session:
    """What a suite's own parts see.

    Attributes:
      console: for what the user should know.
      workers: by side.
      peers: the sides that the suite can do without.
      absent: sides that do not take part, each with its ``reason``.
      refused: cases that a side does not take, each with ``case``, ``side`` and ``reason``.
      warm: what warming up said, by ``(case, side)``.
      record: all measurements.
    """

    console: Console
    workers: dict[str, Any] = dataclasses.field(default_factory=dict)
    peers: set[str] = dataclasses.field(default_factory=set)
    absent: list[dict[str, str]] = dataclasses.field(default_factory=list)
    refused: list[dict[str, str]] = dataclasses.field(default_factory=list)
    warm: dict[tuple[str, str], dict[str, Any]] = dataclasses.field(default_factory=dict)
    record: Record | None = None

    def description(self, side: str) -> dict[str, Any]:
        """What the engine of a side says of itself."""
        return self.workers[side].description

    def refuse(self, case: str, side: str, reason: str):
        """Note why a side does not take a case."""
        self.refused.append({"case": case, "side": side, "reason": reason})
        text = f"refused: {case} on {side}: {reason}"
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def leave_out(self, side: str, reason: str):
        """Note why a side does not take part, and close its worker if it has one."""
        reason = reason.splitlines()[0]
        self.absent.append({"side": side, "reason": reason})
        self.console.print(f"absent: {side}: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        if side in self.workers:
            self.workers.pop(side).close()


@contextlib.contextmanager
def open_session(sides: Sequence[Side], console: Console) -> Iterator[Session]:
    """Start all sides, one after the other; close them whatever happens.

    Raises:
      WorkerError: one of our own engines does not load.
    """
    session = Session(console, peers={side.name for side in sides if side.peer})
    try:
        for side in sides:
            if side.missing:
                session.leave_out(side.name, side.missing)
                continue
            console.print(f"loading {side.name}", style="dim", highlight=False)
            try:
                session.workers[side.name] = WorkerProcess(side.name, side.target, dict(side.options))
            except WorkerError as error:
                if not side.peer:
                    raise
                session.leave_out(side.name, str(error))
        yield session
    except BaseException:
        for worker in session.workers.values():
            worker.close(patience=0.0)  # it may be in the middle of something that nobody waits for any more
        raise
    finally:
        for worker in session.workers.values():
            worker.close()


def run_suite(
    name: str,
    *,
    host: str,
    main_side: str,
    session: Session,
    cases: Sequence[Case],
    options: Options,
    finish: Callable[[dict[str, Any], Session], None] = lambda document, session: None,
) -> Path:
    """Warm up, measure, sum up, write. Returns the path of the result.

    Args:
      name: of the suite.
      host: sort of machine, see :func:`experiments.benchmarks.machine.host_tag`.
      main_side: one of our own; its worker, which holds the device, describes the environment.
      session: the open workers.
      cases: cases; sides that are absent are left out of them.
      options: see :class:`Options`.
      finish: adds to the document what only this suite has.
    """
    warm_up(present(cases, session.workers), session)
    cases = present(cases, session.workers, {(entry["case"], entry["side"]) for entry in session.refused})
    surroundings = session.workers[main_side].call("environment")
    stem = f"{name}_smoke_{host}" if options.smoke else f"{name}_{host}"
    engines = {side: worker.description for side, worker in session.workers.items()}
    key = {
        "suite": name,
        "smoke": options.smoke,
        "commit": surroundings.get("commit"),
        "host": host,
        "sources": sources_digest(),
        "engines": {
            side: {name: value for name, value in said.items() if not name.startswith("load_")}
            for side, said in engines.items()
        },
        "cases": [dataclasses.asdict(case) for case in cases],
    }
    session.record = record = Record.open(options.out / f".{stem}.partial.json", key, options.rounds)
    if record.attempts:
        session.console.print(f"continuing after {len(record.attempts)} attempts", style="yellow", highlight=False)
    with progress_bar(session.console) as bar:
        task = bar.add_task("measuring", total=options.rounds * len(cases), loud=0)
        loud = 0

        def on_attempt(attempt: dict[str, Any]):
            nonlocal loud
            loud += attempt["loud"]
            done = {(entry["case"], entry["round"]) for entry in record.attempts}
            text = f"{attempt['case']} round {attempt['round'] + 1}"
            bar.update(task, completed=len(done), description=text, loud=loud, refresh=True)
            if not session.console.is_terminal:  # where no bar is drawn, a line each
                load = f"foreign load {loudest(attempt):.2f}" + (", loud" if attempt["loud"] else "")
                session.console.print(f"measured {text} of {options.rounds}, {load}", markup=False, highlight=False)

        run_rounds(
            cases,
            session.workers,
            record,
            rounds=options.rounds,
            repeats=options.repeats,
            quiet_seconds=options.wait_quiet,
            on_attempt=on_attempt,
        )
    document = {
        "schema": SCHEMA,
        "suite": name,
        "smoke": options.smoke,
        "host": host,
        "date": surroundings["date"][:10],
        "environment": surroundings,
        "rounds": options.rounds,
        "engines": engines,
        "absent": session.absent,
        "refused": session.refused,
        "rows": [row(name, case, side, session, surroundings) for case in cases for side in case.sides],
    }
    finish(document, session)
    path = options.out / f"{stem}_{document['date']}.json"
    write_json(path, document)
    record.path.unlink(missing_ok=True)
    return path


def present(
    cases: Sequence[Case], workers: Mapping[str, Worker], refused: Collection[tuple[str, str]] = ()
) -> list[Case]:
    """Leave absent sides out, and those that refused a case out of it, and cases that have no side left."""
    kept = [
        dataclasses.replace(
            case, sides=tuple(side for side in case.sides if side in workers and (case.name, side) not in refused)
        )
        for case in cases
    ]
    return [case for case in kept if case.sides]


def warm_up(cases: Sequence[Case], session: Session):
    """Compile and run everything once, and note the memory it took. A peer that fails is absent from then on.

    A side that answers with ``refused``, a reason, is left out of this case alone.

    ``peak_rss_bytes`` is the largest resident set while this case was warmed up: weights, compiler and working memory. Where
    the system cannot forget an earlier peak, it is that since the engine's start, and ``peak_rss_since`` says so.

    Raises:
      WorkerError: one of our own engines cannot.
    """
    for case in cases:
        for side in case.sides:
            if side not in session.workers:
                continue
            session.console.print(f"warming up {case.name} on {side}", style="dim", highlight=False)
            worker = session.workers[side]
            since = "warm-up" if worker.reset_peak_rss() else "start"
            try:
                said = worker.call("warm_up", **case.arguments)
            except WorkerError as error:
                if side not in session.peers:
                    raise
                session.leave_out(side, str(error))
                continue
            if "refused" in said:
                session.refuse(case.name, side, said["refused"])
                continue
            session.warm[case.name, side] = {**said, "peak_rss_bytes": worker.peak_rss(), "peak_rss_since": since}


def row(suite: str, case: Case, side: str, session: Session, surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything known about one side of one case, fit to be read alone; the whole environment stands in the document."""
    assert session.record is not None
    said, warm = session.description(side), session.warm[case.name, side]
    prompt = case.arguments.get("prompt")
    return {
        "suite": suite,
        "engine": said["engine"],
        "engine_version": said["version"],
        "dtype": case.arguments.get("dtype") or said["dtype"],
        "batch": case.arguments.get("batch", 1),
        "prompt_tokens": case.arguments.get("context") if prompt is None else len(prompt),
        "new_tokens": case.arguments.get("new_tokens"),
        "tokens_per_call": warm.get("tokens_per_call"),
        "compile_seconds": warm.get("compile_seconds"),
        "peak_rss_bytes": warm["peak_rss_bytes"],
        "peak_rss_since": warm["peak_rss_since"],
        "note": warm.get("note", ""),
        "commit": surroundings["commit"],
        "jax": surroundings["jax"],
        "hardware": {name: surroundings[name] for name in ("device_kind", "cpu_model", "cpu_flags", "cores")},
        **summarise(case, side, session.record),
    }


def progress_bar(console: Console) -> Progress:
    """A bar that is drawn when told to: a refreshing thread would be load of our own making."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loud]} loud"))
    return Progress(*columns, TimeElapsedColumn(), console=console, auto_refresh=False)
