"""Where arrays lie: the mesh of devices, sharding rules, and the start of several processes.

One program runs on one device, on all devices of a machine and on those of many: ``jax.jit`` over arrays that carry a
``NamedSharding``. What differs is the mesh and the rules.

- The rows of a batch lie along the mesh axis "data". Parameters that no rule names are whole on every device, and XLA adds
  their gradients up: data parallelism, what ``pmap`` with ``pmean`` used to say.
- A pattern found in the path of a parameter, such as ``mlp/gate_up/weight``, gives its ``PartitionSpec``: tensor parallelism
  (Shoeybi et al. 2019, arXiv 1909.08053). Other axes than "data" have whatever names the rules use.
- ``fully_sharded`` cuts every parameter along its largest axis that the data axis divides (ZeRO, Rajbhandari et al. 2020, arXiv
  1910.02054): XLA gathers a parameter where it is used and scatters its gradient.

Sharding changes where numbers are and how sums over the batch are grouped, not what is computed.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdec.typing import PyTree

DATA = "data"
"""The mesh axis along which the rows of a batch lie."""


def make_mesh(spec: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices.

    Args:
      spec: length of each axis by name, "data" among them; one may be -1 and takes what is left.
      devices: those to arrange, all of all processes by default. One process may use fewer than it has.

    Raises:
      ValueError: an axis length that is not positive, more devices than there are, a number that does not divide them, or fewer
        devices than there are with several processes.
    """
    devices = jax.devices() if devices is None else list(devices)
    shown = ", ".join(f"{name}: {size}" for name, size in spec.items())
    if DATA not in spec:
        raise ValueError(f"mesh must have an axis {DATA!r}, got {{{shown}}}")
    open_axes = [name for name, size in spec.items() if size == -1]
    fixed = math.prod(size for size in spec.values() if size != -1)
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in spec.values()):
        raise ValueError(f"mesh axes must be positive, and one of them may be -1, got {{{shown}}}")
    if fixed > len(devices):
        raise ValueError(f"mesh {{{shown}}} asks for {fixed} devices, there are {len(devices)}")
    if open_axes and len(devices) % fixed:
        raise ValueError(f"mesh {{{shown}}}: {len(devices)} devices cannot be divided by {fixed}")
    shape = [len(devices) // fixed if size == -1 else size for size in spec.values()]
    if math.prod(shape) < len(devices) and jax.process_count() > 1:
        raise ValueError(f"mesh {{{shown}}} must use all {len(devices)} devices of {jax.process_count()} processes")
    kinds = (AxisType.Auto,) * len(shape)  # the compiler decides how activations lie
    return jax.make_mesh(tuple(shape), tuple(spec), axis_types=kinds, devices=devices[: math.prod(shape)])


@functools.lru_cache(maxsize=8)  # asked for every batch
def process_part(mesh: Mesh) -> tuple[int, int]:
    """Which of how many equal blocks of a batch's rows this process has to read.

    Processes that share their rows, since another mesh axis spans them, read the same block.

    Raises:
      ValueError: a mesh in which this process's devices do not own one block of rows.
    """
    axis = mesh.axis_names.index(DATA)
    places = np.argwhere(np.vectorize(lambda device: device.process_index)(mesh.devices) == jax.process_index())
    rows = np.unique(places[:, axis])
    count, remainder = divmod(mesh.shape[DATA], rows.size)
    index, offset = divmod(int(rows[0]), rows.size)
    if remainder or offset or rows[-1] - rows[0] != rows.size - 1:
        raise ValueError(
            f"mesh gives process {jax.process_index()} the places {rows.tolist()} along {DATA!r}: no block"
        )
    return index, count


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """How parameters are cut.

    Attributes:
      patterns: pairs of a regular expression and the ``PartitionSpec`` of parameters in whose path it is found; the first that
        is found counts. Paths are written ``layer_0/mlp/down/weight``.
      fully_sharded: cut each parameter along "data" as well, on its largest axis that no pattern has cut already and that the
        data axis divides. Parameters without such an axis stay whole.
    """

    patterns: tuple[tuple[str, PartitionSpec], ...] = ()
    fully_sharded: bool = False

    def specs(self, params: PyTree, mesh: Mesh) -> dict[str, PartitionSpec]:
        """The specification of every parameter, by its path.

        Args:
          params: arrays, or their shapes.
          mesh: the specifications are for.

        Raises:
          ValueError: a pattern that is no regular expression or is found in no path, a specification with more axes than the
            parameter, with an axis that the mesh lacks or with one that does not divide the parameter's.
        """
        shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(params)}
        specs, used = {}, set()
        for path, shape in shapes.items():
            found = PartitionSpec()
            for pattern, spec in self.patterns:
                if _search(pattern, path):
                    used.add(pattern)
                    found = spec
                    break
            _check(path, shape, found, mesh)
            specs[path] = _fully_sharded(shape, found, mesh) if self.fully_sharded else found
        for pattern, _ in self.patterns:
            if pattern not in used:
                known = ", ".join(list(shapes)[:4])
                raise ValueError(f"sharding rule {pattern!r} decides on no parameter; there are {known}, ...")
        return specs


DATA_PARALLEL = ShardingRules()
FULLY_SHARDED = ShardingRules(fully_sharded=True)


def shardings(tree: PyTree, params: PyTree, mesh: Mesh, rules: ShardingRules) -> PyTree:
    """Where the leaves of a training state lie.

    A leaf whose path ends in that of a parameter, and has its shape, lies as the parameter does: optimisers keep moments, and
    momentum networks copies, in trees of the parameters' own structure. All others are whole on every device.

    Args:
      tree: arrays or their shapes, such as parameters, optimiser state, averages.
      params: the parameters by themselves.
      mesh: of devices.
      rules: for the parameters.

    Returns:
      ``tree`` with a ``NamedSharding`` in place of every leaf.

    Raises:
      ValueError: see :meth:`ShardingRules.specs`.
    """
    specs = rules.specs(params, mesh)
    shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(params)}

    def place(path, leaf) -> NamedSharding:
        parts = [_text([part]) for part in path]
        for begin in range(len(parts)):
            ending = "/".join(parts[begin:])
            if shapes.get(ending) == tuple(leaf.shape):
                return NamedSharding(mesh, specs[ending])
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def place_rows(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put the rows that this process has read on its devices, as its part of a global batch.

    Args:
      batch: arrays with rows along the first axis: this process's block (see :func:`process_part`).
      mesh: the rows go along its axis "data".

    Raises:
      ValueError: rows that the devices cannot share equally.
    """
    _, blocks = process_part(mesh)
    rows = {name: np.shape(array)[0] * blocks for name, array in batch.items()}
    for name, count in rows.items():
        if count % mesh.shape[DATA]:
            raise ValueError(
                f"batch of {count} rows ({name!r}) is not divisible by the {mesh.shape[DATA]} places along {DATA!r} of the mesh"
            )
    place = NamedSharding(mesh, PartitionSpec(DATA))
    return {name: jax.make_array_from_process_local_data(place, np.asarray(array)) for name, array in batch.items()}


def place_whole(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Put a batch that every process has read as a whole on the devices: cut along "data" where that goes, else whole."""

    def put(array: np.ndarray) -> jax.Array:
        divides = array.ndim > 0 and array.shape[0] % mesh.shape[DATA] == 0
        place = NamedSharding(mesh, PartitionSpec(DATA) if divides else PartitionSpec())
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])

    return {name: put(np.asarray(array)) for name, array in batch.items()}


def start_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    auto: bool = False,
) -> bool:
    """Join the other processes of a run, before jax is used for the first time.

    What is None is read from ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Args:
      coordinator: ``host:port`` of process 0.
      num_processes: of the run.
      process_id: of this one, from 0.
      auto: let jax find all three out, as it can on Cloud TPU, Slurm, Open MPI and Kubernetes.

    Returns:
      Whether there is anything to join: False if nothing was given, and the run is this process alone.

    Raises:
      ValueError: some of the three without the others, or numbers that do not fit together.
    """
    environment = os.environ
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    num_processes = _number("JAX_NUM_PROCESSES", num_processes)
    process_id = _number("JAX_PROCESS_ID", process_id)
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if auto:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        return True
    if all(value is None for value in given.values()):
        return False
    missing = [name for name, value in given.items() if value is None]
    if missing or num_processes is None or process_id is None:
        raise ValueError(f"several processes need {', '.join(given)}; missing: {', '.join(missing)}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"process_id must be at least 0 and below num_processes, {num_processes}, got {process_id}")
    jax.distributed.initialize(coordinator, num_processes, process_id)
    return True


def _number(variable: str, given: int | None) -> int | None:
    if given is not None or variable not in os.environ:
        return given
    try:
        return int(os.environ[variable])
    except ValueError:
        raise ValueError(f"{variable} must be a whole number, got {os.environ[variable]!r}") from None


def _text(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Every array of a tree, or whatever has a shape, with its path as rules are matched against it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return [(_text(path), leaf) for path, leaf in leaves]


def _search(pattern: str, path: str) -> bool:
    try:
        return re.search(pattern, path) is not None
    except re.error as error:
        raise ValueError(f"sharding rule {pattern!r} is no regular expression: {error}") from None


def _axes(entry: Any) -> tuple[str, ...]:
    """Mesh axes of one entry of a specification."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _check(path: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    if len(spec) > len(shape):
        raise ValueError(f"sharding rule {spec} for {path} has {len(spec)} axes, the parameter has shape {shape}")
    for size, entry in zip(shape, spec):
        for axis in _axes(entry):
            if axis not in mesh.shape:
                known = ", ".join(map(str, mesh.axis_names))
                raise ValueError(f"sharding rule {spec} for {path}: mesh has no axis {axis!r}, only {known}")
        places = math.prod(mesh.shape[axis] for axis in _axes(entry))
        if size % places:
            raise ValueError(f"sharding rule {spec} for {path}: {size} is not divisible by {places}, shape {shape}")


def _fully_sharded(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    if any(DATA in _axes(entry) for entry in entries):
        return spec
    free = [
        axis for axis, (size, entry) in enumerate(zip(shape, entries)) if not entry and size % mesh.shape[DATA] == 0
    ]
    if not free:
        return spec
    entries[max(free, key=lambda axis: shape[axis])] = DATA
    return PartitionSpec(*entries)
