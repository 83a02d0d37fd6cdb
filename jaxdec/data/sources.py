"""Sources: examples that can be read at any place, each a dictionary of NumPy arrays.

The protocol is Grain's ``RandomAccessDataSource``, so whatever Grain or TensorFlow Datasets can read serves as a source.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxdec.typing import Int

Example = dict[str, Any]
"""Names and arrays of one example, or of a batch of them stacked along a new first axis."""


@runtime_checkable
class Source(Protocol):
    """What examples are read from."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """The example at ``index``, from 0; always the same one."""
        ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Examples that lie in memory.

    Attributes:
      arrays: one array a field, examples along the first axis.

    Raises:
      ValueError: no arrays, none of an example, or arrays of different lengths.
    """

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self):
        lengths = {name: array.shape[0] if array.ndim else 0 for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"arrays must hold the same number of examples, at least one, got {lengths}")

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    def __getitem__(self, index: int) -> Example:
        return {name: array[index] for name, array in self.arrays.items()}

    def rows(self, indices: Int[np.ndarray, "B"]) -> Example:
        """Several examples at once, stacked."""
        return {name: array[indices] for name, array in self.arrays.items()}

    def subset(self, indices: Int[np.ndarray, "M"]) -> "ArraySource":
        """A source of those examples alone."""
        return ArraySource(self.rows(indices))


@dataclasses.dataclass(frozen=True)
class MappedSource:
    """A source whose examples go through a function.

    Attributes:
      source: the source, whatever its examples are.
      function: of an example; pure.
    """

    source: Any
    function: Callable[[Any], Example]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.function(self.source[index])


def read_rows(source: Source, indices: Int[np.ndarray, "B"]) -> Example:
    """Several examples of any source, stacked."""
    if isinstance(source, HasRows):
        return source.rows(indices)
    return stacked([source[index] for index in indices.tolist()])


@runtime_checkable
class HasRows(Protocol):
    """A source that reads many examples faster than one by one."""

    def rows(self, indices: Int[np.ndarray, "B"]) -> Example:
        """Several examples, stacked."""
        ...


def stacked(examples: Sequence[Example]) -> Example:
    """A batch of examples.

    Raises:
      ValueError: examples whose fields or shapes differ.
    """
    first = examples[0]
    for example in examples:
        if example.keys() != first.keys():
            raise ValueError(f"examples of one batch have different fields: {sorted(first)} and {sorted(example)}")
        for name, array in example.items():
            if np.shape(array) != np.shape(first[name]):
                shapes = f"{np.shape(first[name])} and {np.shape(array)}"
                raise ValueError(f"field {name!r} has different shapes in one batch, {shapes}: cut or pad the examples")
    return {name: np.stack([np.asarray(example[name]) for example in examples]) for name in first}


def stratified_split(
    labels: Int[np.ndarray, "N"], test_fraction: float, seed: int = 0
) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "T"]]:
    """Indices of a training part and of a test part, with each label's share in both.

    Args:
      labels: one an example.
      test_fraction: share of each label that goes to the test, in (0, 1), rounded to the nearest whole number.
      seed: which examples those are.

    Returns:
      Two sorted arrays, disjoint, that hold every index between them.

    Raises:
      ValueError: a fraction out of range, or a part that would be empty.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), got {test_fraction}")
    rng = np.random.default_rng(seed)
    test = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        test.append(rng.permutation(members)[: round(test_fraction * members.size)])
    chosen = np.zeros(labels.shape[0], bool)
    chosen[np.concatenate(test)] = True
    if chosen.all() or not chosen.any():
        raise ValueError(f"test_fraction {test_fraction} of {labels.shape[0]} examples leaves one of the parts empty")
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
