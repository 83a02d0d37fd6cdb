"""Which rows of a batch begin alike: a token trie, cut into levels of shared segments.

Hydragen (Juravsky et al. 2024, arXiv 2402.05099, section 3.3) shares prefixes along a tree: a few-shot preamble for all rows, a
question for some of them, the samples of each question below. Here the tree is found in the tokens, or given.

A *node* is a run of tokens that neighbouring rows have in common: rows ``begin .. end - 1`` agree on the text positions
``start .. stop - 1``, where ``start`` is where the node above ends. Nodes of one depth make a level. Of every row at least the
last prompt token stays its own: what follows it is chosen from its logits.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.typing import Array, Int

LEAST_TOKENS = 32  # a shorter segment costs more in merging than it saves
ROUND = 64  # widths and capacities are rounded to this, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Node:
    """Rows ``begin .. end - 1`` share the text positions ``start .. stop - 1``."""

    begin: int
    end: int
    start: int
    stop: int


class PrefixSharing(struct.PyTreeNode):
    """The shared segments of a batch, level by level.

    Attributes:
      spans: per level and segment, its first row and the row behind its last; in order, without overlap, each within one
        segment of the level above or outside of all.
      widths: per level, room for its longest segment.
      own_width: room for the longest rest of a prompt.
      spared: slots of the text buffer that no row needs for what it has of its own.
      spared_by_prompts: the same where several texts of one prompt share all of it.
      length: per level, tokens of each segment.
    """

    spans: tuple[tuple[tuple[int, int], ...], ...] = struct.field(pytree_node=False)
    widths: tuple[int, ...] = struct.field(pytree_node=False)
    own_width: int = struct.field(pytree_node=False)
    spared: int = struct.field(pytree_node=False)
    spared_by_prompts: int = struct.field(pytree_node=False)
    length: tuple[Int[Array, "_"], ...]

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], levels: Sequence[Sequence[Node]], max_new_tokens: int, capacity: int
    ) -> "PrefixSharing":
        """Sharing of prompts along nodes that fit them (:func:`find_levels` and :func:`given_levels` make such).

        Args:
          prompts: token ids.
          levels: the nodes.
          max_new_tokens: largest budget.
          capacity: text positions that there is room for.
        """
        lengths = np.array([len(prompt) for prompt in prompts])
        shared = np.zeros(len(prompts), int)
        for nodes in levels:
            for node in nodes:
                shared[node.begin : node.end] += node.stop - node.start
        rest = int((lengths - shared).max())
        return cls(
            spans=tuple(tuple((node.begin, node.end) for node in nodes) for nodes in levels),
            widths=tuple(_up(max(node.stop - node.start for node in nodes)) for nodes in levels),
            own_width=_up(rest, 16),
            spared=max(0, capacity - _up(rest + max_new_tokens)),
            spared_by_prompts=max(0, capacity - _up(max_new_tokens)),
            length=tuple(jnp.asarray([node.stop - node.start for node in nodes], jnp.int32) for nodes in levels),
        )

    def repeated(self, times: int) -> "PrefixSharing":
        """Sharing when every row is repeated in place."""
        spans = tuple(tuple((begin * times, end * times) for begin, end in level) for level in self.spans)
        return self.replace(spans=spans)

    def spans_among(self, level: int, rows: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """The spans of a level, counted in the segments ``rows`` of a level below instead of in rows."""
        begins, ends = np.array([begin for begin, _ in rows]), np.array([end for _, end in rows])
        return tuple((int((begins < begin).sum()), int((ends <= end).sum())) for begin, end in self.spans[level])


def _up(size: int, step: int = ROUND) -> int:
    return -(-size // step) * step


def sorted_rows(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the prompts in an order that puts those that begin alike side by side; equal ones keep their order."""
    return sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))


def find_levels(prompts: Sequence[Sequence[int]], least_tokens: int = LEAST_TOKENS) -> list[list[Node]]:
    """Find the segments that neighbouring prompts share.

    Args:
      prompts: token ids; those that begin alike side by side (:func:`sorted_rows`).
      least_tokens: shorter segments are not worth a node; they stay with the nodes, or the rows, below.

    Returns:
      Levels from the root on, without empty ones.

    Raises:
      ValueError: ``least_tokens`` below 1.
    """
    if least_tokens < 1:
        raise ValueError(f"least_tokens must be at least 1, got {least_tokens}")
    levels: list[list[Node]] = []
    open_runs = [(0, len(prompts), 0, 0)]  # rows, tokens shared above, level
    while open_runs:
        begin, end, start, level = open_runs.pop(0)
        if end - begin < 2:
            continue
        stop = _common_of_run(prompts, begin, end)
        if stop - start >= least_tokens:
            while len(levels) <= level:
                levels.append([])
            levels[level].append(Node(begin, end, start, stop))
            start, level = stop, level + 1
        for first, last in _runs(prompts, begin, end, stop):
            if (first, last) != (begin, end):
                open_runs.append((first, last, start, level))
    return [sorted(nodes, key=lambda node: node.begin) for nodes in levels]


def _common_of_run(prompts: Sequence[Sequence[int]], begin: int, end: int) -> int:
    """Tokens that all rows of a run have in common, each keeping its last one."""
    first = prompts[begin]
    return min(_common(first[:-1], prompts[row][:-1]) for row in range(begin, end))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    size = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:size]) != np.asarray(b[:size]))
    return int(different[0]) if len(different) else size


def _runs(prompts: Sequence[Sequence[int]], begin: int, end: int, at: int) -> list[tuple[int, int]]:
    """Neighbours with the same token at a position; a prompt that keeps none to share there is a run of its own."""
    runs: list[tuple[int, int]] = []
    for row in range(begin, end):
        prompt = prompts[row]
        before = prompts[row - 1]
        joins = runs and len(prompt) > at + 1 and len(before) > at + 1 and prompt[at] == before[at]
        if joins:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def given_levels(prompts: Sequence[Sequence[int]], tree: Sequence[Sequence[tuple[int, int]]]) -> list[list[Node]]:
    """Check a tree that a user gives.

    Args:
      prompts: token ids.
      tree: per level, ``(number of rows, number of tokens)`` of each segment in order; the rows of a level add up to the batch.
        A segment of 0 tokens stands for rows that share nothing at that level.

    Raises:
      ValueError: rows that do not add up, levels that are not nested, tokens that are not shared, or a prompt that would keep
        no token of its own.
    """
    batch = len(prompts)
    shared, bounds, levels = [0] * batch, {0, batch}, []
    for number, segments in enumerate(tree):
        if not segments:
            raise ValueError(f"level {number} is empty: leave it out")
        nodes, begin = [], 0
        for rows, tokens in segments:
            if rows < 1 or tokens < 0:
                raise ValueError(f"level {number}: a segment needs at least 1 row and 0 tokens, got ({rows}, {tokens})")
            end = begin + rows
            if end > batch:
                break
            start = shared[begin]
            if tokens:
                check_shared(prompts, number, begin, end, start, start + tokens)
                nodes.append(Node(begin, end, start, start + tokens))
            begin = end
            shared[end - rows : end] = [start + tokens] * rows
        total = sum(rows for rows, _ in segments)
        if total != batch:
            raise ValueError(f"level {number}: its segments have {total} rows, the batch has {batch}")
        edges = {0, *np.cumsum([rows for rows, _ in segments]).tolist()}
        if not bounds <= edges:
            missing = min(bounds - edges)
            raise ValueError(
                f"level {number}: a segment spans row {missing}, where one of the level above ends: not nested"
            )
        bounds = edges
        if nodes:
            levels.append(nodes)
    return levels


def check_shared(prompts: Sequence[Sequence[int]], level: int, begin: int, end: int, start: int, stop: int):
    """Raise ``ValueError`` unless rows agree on positions ``start .. stop - 1`` and all keep a token behind them."""
    wanted = list(prompts[begin][start:stop])
    for row in range(begin, end):
        if len(prompts[row]) <= stop:
            raise ValueError(
                f"level {level}: rows {begin} to {end - 1} are said to share {stop} tokens; prompt {row} has "
                f"{len(prompts[row])}, and must keep at least one of its own"
            )
        if list(prompts[row][start:stop]) != wanted:
            different = start + _common(prompts[row][start:stop], wanted)
            raise ValueError(
                f"level {level}: rows {begin} to {end - 1} are said to share {stop} tokens; prompt {row} has another "
                f"token than prompt {begin} at position {different}"
            )
