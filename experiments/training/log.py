"""What a training run writes while it goes on: a line of JSON now and then, the same for TensorBoard, and curves at the end."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.record import write_text
from experiments.training.event_file import EventFile

LINES, EVENTS, CURVES = "metrics.jsonl", "events", "curves.svg"
NOT_METRICS = ("kind", "step")


class Log:
    """Metrics of a run in a folder; a context manager.

    Attributes:
      lines: what has been written, in order: ``{"kind": "train" or "evaluation", "step": ..., and the metrics}``.
    """

    def __init__(self, folder: Path, made: int, batch_size: int, log_every: int):
        """Go on behind the lines of the first ``made`` updates; later ones, which will be made again, are dropped."""
        path = folder / LINES
        self.lines = [line for line in _read(path) if line["step"] <= made]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in self.lines))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._events = EventFile(folder / EVENTS, made + 1)
        self._batch_size, self._log_every = batch_size, log_every
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since: float | None = None  # when the first update that is timed began; None before one that compiles
        self._timed = 0

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()
        self._events.__exit__()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an update; every ``log_every`` updates their means are written, and how fast they went."""
        now = time.perf_counter()
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in metrics.items()}
        self._count += 1
        if self._since is None:
            self._since = now
        else:
            self._timed += 1
        if step % self._log_every == 0:
            means = {name: total / self._count for name, total in self._sums.items()}
            rate = {"rows_per_second": self._timed * self._batch_size / (now - self._since)} if self._timed else {}
            self._write("train", step, {**means, **rate})
            self._sums, self._count, self._since, self._timed = {}, 0, now, 0

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write what an evaluation gave. Its time is not the training's."""
        self._write("evaluation", step, metrics)
        self._since, self._timed = None, 0

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last line of a kind."""
        return next((line for line in reversed(self.lines) if line["kind"] == kind), None)

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        numbers = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = {"kind": kind, "step": step, **numbers}
        if line in self.lines[-2:]:
            return  # the last evaluation of a run that was finished already
        self.lines.append(line)
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        self._events.scalars(step, {f"{kind}/{name}": value for name, value in metrics.items()})


def _read(path: Path) -> list[dict[str, Any]]:
    """Lines of a file that may not be there, up to one that a killed process did not finish."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def draw_curves(lines: list[dict[str, Any]], folder: Path) -> Path:
    """Draw the loss of training, and every metric of evaluation, over the updates."""
    from experiments.papers.speculative.figures import draw  # loads much that training does not need

    series = {kind: [line for line in lines if line["kind"] == kind] for kind in ("train", "evaluation")}
    panels = [("train", "loss")] if series["train"] else []
    if series["evaluation"]:
        panels += [("evaluation", name) for name in series["evaluation"][0] if name not in NOT_METRICS]

    def fill(axes: Any) -> None:
        for ax, (kind, name) in zip(axes, panels):
            points = [(line["step"], line[name]) for line in series[kind] if line.get(name) is not None]
            ax.plot(*zip(*points), lw=1.2, marker="o" if len(points) < 10 else None, ms=3)
            ax.set(xlabel="updates", ylabel=name, title=kind)

    draw(folder / CURVES, max(1, len(panels)), (2.6, 2.2), fill)
    return folder / CURVES
