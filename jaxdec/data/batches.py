"""Batches as a function of the step: shuffled anew each epoch, each process reading its part.

Training that goes on from a checkpoint must see the batches that it would have seen, so a batch depends on the seed and on
the number of its step and on nothing else. Grain's ``MapDataset`` gives what is needed: its shuffle computes the place of
any element by itself (a pseudo-random permutation by a Feistel network), so nothing is stored and no step is replayed.

    examples of step t:  order[t B], ..., order[t B + B - 1],     order = shuffle(0 .. N - 1), repeated, another one each time

Epochs follow one another without a gap: a batch may hold the end of one and the beginning of the next, and every example is
seen equally often. All processes agree on the order; each reads a block of rows, so that the global batch does not depend on
their number.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdec.data.sources import Example, Source, read_rows
from jaxdec.typing import Int


@dataclasses.dataclass(frozen=True)
class Batches:
    """See :func:`batches`.

    Attributes:
      source: where examples are read.
      batch_size: examples of a step, over all processes.
      part: which of how many equal parts of a batch is read here.
      order: the endless sequence of indices into the source.
    """

    source: Source
    batch_size: int
    part: tuple[int, int]
    order: Any

    def indices(self, step: int) -> Int[np.ndarray, "B"]:
        """Which examples are read here for a step, from 0."""
        index, count = self.part
        size = self.batch_size // count
        begin = step * self.batch_size + index * size
        return np.array([self.order[place] for place in range(begin, begin + size)], np.int64)

    def at(self, step: int) -> Example:
        """This process's rows of a step's batch, stacked."""
        return read_rows(self.source, self.indices(step))


def batches(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    part: tuple[int, int] | None = None,
) -> Batches:
    """Batches of a source, endlessly.

    Args:
      source: where examples are read.
      batch_size: examples of a step, over all processes.
      seed: of the order, at least 0.
      shuffle: False reads in the order of the source, epoch for epoch.
      part: ``(index, count)``: read the ``index``-th of ``count`` equal blocks of a batch's rows. By default this process's
        among all processes; :func:`jaxdec.parallel.process_part` tells it for a mesh whose other axes span processes.

    Raises:
      ValueError: a batch size that is below 1, above the number of examples, or not divisible into the parts; a negative seed.
    """
    import grain  # takes most of a second, and not everyone who needs a source needs batches

    index, count = (jax.process_index(), jax.process_count()) if part is None else part
    if not 0 <= index < count:
        raise ValueError(f"part must be (index, count) with 0 <= index < count, got {part}")
    if not 1 <= batch_size <= len(source):
        raise ValueError(f"batch_size must be between 1 and the number of examples, {len(source)}, got {batch_size}")
    if batch_size % count:
        raise ValueError(f"batch_size must be divisible by the number of reading processes, {count}, got {batch_size}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    order = grain.MapDataset.range(len(source))
    if shuffle:
        # Grain's shuffle of epoch e is that of seed + e. Seeds far from one another keep runs with neighbouring seeds apart.
        order = order.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return Batches(source, batch_size, (index, count), order.repeat())


class InOrder(Sequence[Example]):
    """All examples of a source once, in order, for evaluation. The last batch may be smaller."""

    def __init__(self, source: Source, batch_size: int):
        """``batch_size`` is the number of examples of a batch.

        Raises:
          ValueError: a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._source = source
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = index * self._batch_size
        return read_rows(self._source, np.arange(begin, min(begin + self._batch_size, len(self._source))))
