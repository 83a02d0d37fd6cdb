"""What happened while a text was decoded: which pass made each token, and what every pass was asked to check."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdec.decoding.speculative import Speculative
from jaxdec.evaluation.acceptance import DraftCounts
from jaxdec.generation import Run

PRODUCERS = ("prompt", "prefill", "target", "draft")
DRAFTED = 2  # of the engine's ``produced_by``


@dataclasses.dataclass(frozen=True)
class TracedToken:
    """A token of the text.

    Attributes:
      token_id: its id.
      position: its place in the text, from 0.
      producer: one of :data:`PRODUCERS`; ``prefill`` is the first new token, which the pass over the prompt yields.
      step: that emitted it, from 1; 0 for prompt and prefill.
      depth: of the draft that it was, from 1; 0 if it was none.
    """

    token_id: int
    position: int
    producer: str
    step: int = 0
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class TracedNode:
    """A candidate of a draft tree.

    Attributes:
      token_id: the guess.
      position: in the text, if it were accepted.
      step: in which it was fed.
      depth: below the root, from 1.
      outcome: ``accepted``, ``rejected``, or ``cut``: accepted behind the end of the text.
      children: that follow it.
    """

    token_id: int
    position: int
    step: int
    depth: int
    outcome: str
    children: tuple["TracedNode", ...] = ()


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """One forward pass after the prefill.

    Attributes:
      number: from 1.
      size: nodes fed beside the root; those that are no candidates (padding, lookahead's window) included.
      root: the token that guesses follow.
      nodes: candidates that follow it, their children below them.
      emitted: tokens that the step added to the text.
    """

    number: int
    size: int
    root: TracedToken
    nodes: tuple[TracedNode, ...]
    emitted: tuple[TracedToken, ...]


@dataclasses.dataclass(frozen=True)
class DecodeTrace:
    """One text: its tokens, prompt included, the steps, and what the method counted."""

    tokens: tuple[TracedToken, ...]
    steps: tuple[TracedStep, ...]
    counts: DraftCounts


def record(run: Run, report: Callable[[], None] = lambda: None) -> list[DecodeTrace]:
    """Decode step by step and return a trace per row of the state; the samples of a prompt follow each other.

    Args:
      run: of a method that is ``incremental``, not yet begun.
      report: called after every step.

    Raises:
      ValueError: a method whose texts are only known at the end.
    """
    if not run.method.incremental:
        raise ValueError(f"method {run.method_name!r} has no trace: its texts are known at the end only")
    rows: list[_Row] = []
    for _ in run.states(steps=1):
        state = _on_host(run)
        if not rows:
            rows = [_Row(state, row) for row in range(len(state["length"]))]
        else:
            for row in rows:
                row.add_step(state)
        report()
    return [row.trace(state) for row in rows]


def _on_host(run: Run) -> dict[str, np.ndarray]:
    """Copies of what a trace needs: the state itself is donated to the next step."""
    state = run.state
    parts: dict[str, Any] = {name: getattr(state, name) for name in ("tokens", "length", "prompt_length")}
    parts["target_calls"] = state.stats.target_calls
    if isinstance(run.method, Speculative):
        parts |= {name: getattr(state.stats, name) for name in ("drafted", "accepted", "fed", "produced_by")}
        parts |= {
            f"last_{name}": getattr(state.last, name) for name in ("tokens", "parents", "fed", "path", "accepted")
        }
    return {name: np.array(value) for name, value in parts.items()}


class _Row:
    """A trace in the making."""

    def __init__(self, state: dict[str, np.ndarray], row: int):
        self.row = row
        self.fed = 0
        self.steps: list[TracedStep] = []
        first, length = int(state["prompt_length"][row]), int(state["length"][row])
        self.tokens = [
            TracedToken(int(state["tokens"][row, i]), i, "prompt" if i < first else "prefill") for i in range(length)
        ]

    def add_step(self, state: dict[str, np.ndarray]) -> None:
        """Add what the step did to this row; nothing, if the row had ended before."""
        begin, end = len(self.tokens), int(state["length"][self.row])
        if end == begin:
            return
        root, number = self.tokens[-1], len(self.steps) + 1
        for position in range(begin, end):
            drafted = "produced_by" in state and state["produced_by"][self.row, position] == DRAFTED
            token = int(state["tokens"][self.row, position])
            made = ("draft", number, position - begin + 1) if drafted else ("target", number, 0)
            self.tokens.append(TracedToken(token, position, *made))
        fed = int(state["fed"][self.row]) if "fed" in state else 0
        nodes = self.nodes(state, number, begin, end) if "last_tokens" in state else ()
        self.steps.append(TracedStep(number, fed - self.fed, root, nodes, tuple(self.tokens[begin:end])))
        self.fed = fed

    def nodes(self, state: dict[str, np.ndarray], number: int, begin: int, end: int) -> tuple[TracedNode, ...]:
        """The candidates of the last step's tree, as they hang on each other."""
        last = {name: state[f"last_{name}"][self.row] for name in ("tokens", "parents", "fed", "path", "accepted")}
        path = set(last["path"][: last["accepted"]].tolist())
        candidates = np.flatnonzero(last["fed"]).tolist()
        depths: dict[int, int] = {}
        for node in candidates:  # parents come first
            depths[node] = depths.get(int(last["parents"][node]), 0) + 1
        children: dict[int, list[TracedNode]] = {}
        for node in reversed(candidates):
            parent, depth = int(last["parents"][node]), depths[node]
            position = begin + depth - 1
            outcome = "rejected" if node not in path else "accepted" if position < end else "cut"
            below = tuple(reversed(children.get(node, ())))
            traced = TracedNode(int(last["tokens"][node]), position, number, depth, outcome, below)
            children.setdefault(parent, []).append(traced)
        return tuple(reversed(children.get(-1, ())))

    def trace(self, state: dict[str, np.ndarray]) -> DecodeTrace:
        """The finished trace."""
        new = len(self.tokens) - int(state["prompt_length"][self.row])
        counted = {name: tuple(state[name][self.row].tolist()) for name in ("drafted", "accepted") if name in state}
        return DecodeTrace(
            tuple(self.tokens),
            tuple(self.steps),
            DraftCounts(new, int(state["target_calls"][self.row]), fed=self.fed, **counted),
        )
