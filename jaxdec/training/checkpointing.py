"""Checkpoints of a training state: written while training goes on, and read back to the last bit.

A checkpoint appears whole or not at all: Orbax writes into a temporary folder and renames it. A process that is killed while it
writes leaves the checkpoint before.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxdec.errors import CheckpointError
from jaxdec.parallel import named_leaves
from jaxdec.typing import PyTree


class Checkpoints:
    """The newest checkpoint of a run in a folder; a context manager that waits for what is still being written.

    With several processes all of them must make the same calls, and ``folder`` is one that all of them see.
    """

    def __init__(self, folder: Path):
        """``folder`` is made where there is none."""
        options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
        self._folder = Path(folder)
        self._manager = ocp.CheckpointManager(
            self._folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._manager.close()

    @property
    def newest(self) -> int:
        """Updates in the newest checkpoint; 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, made: int, arrays: PyTree) -> None:
        """Write ``arrays`` after ``made`` updates; returns when they may be donated. Nothing is written twice."""
        if self.newest != made:
            if jax.default_backend() == "cpu":
                # Orbax reads arrays on a processor where they lie, in a thread, while the next update takes their memory.
                arrays = jax.tree.map(jnp.copy, arrays)
            self._manager.save(made, args=ocp.args.StandardSave(arrays), force=True)

    def restore(self, shapes: PyTree) -> PyTree:
        """Read the newest checkpoint.

        Args:
          shapes: ``jax.ShapeDtypeStruct`` with a sharding in place of every array.

        Raises:
          CheckpointError: one that is corrupt, or holds other arrays.
        """
        path = self._folder / str(self.newest)
        try:
            stored: Any = self._manager.item_metadata(self.newest)
            _check(named_leaves(shapes), named_leaves(getattr(stored, "tree", stored)))
            return self._manager.restore(self.newest, args=ocp.args.StandardRestore(shapes))
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {path} is of another recipe or optimizer: {error}") from None
        except Exception as error:  # Orbax raises whatever its storage raises, bare Exception included
            reason = str(error).strip().split("\n", 1)[0]
            raise CheckpointError(f"checkpoint {path} is cut short or corrupt: {reason}") from error

    def preempted(self, made: int) -> bool:
        """Whether one of several processes was told to end (SIGTERM): all of them learn it after the same update."""
        return jax.process_count() > 1 and self._manager.reached_preemption(made)


class NoCheckpoints:
    """Keeps nothing."""

    newest = 0

    def __enter__(self) -> "NoCheckpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        """Nothing is being written."""

    def save(self, made: int, arrays: PyTree) -> None:
        """Do nothing."""

    def restore(self, shapes: PyTree) -> PyTree:
        """There is nothing to read.

        Raises:
          CheckpointError: always.
        """
        raise CheckpointError("no folder for checkpoints was given")

    def preempted(self, made: int) -> bool:
        """Several processes are told to end only where there is a folder to save to."""
        return False


def _check(wanted: list[tuple[str, Any]], stored: list[tuple[str, Any]]) -> None:
    """Compare by name before Orbax reads: what it makes of other shapes depends on its version."""
    need, have = ({path: tuple(leaf.shape) for path, leaf in leaves} for leaves in (wanted, stored))
    for path in sorted({*need, *have}):
        if need.get(path) != have.get(path):
            shown = [f"shape {shapes[path]}" if path in shapes else "nothing" for shapes in (have, need)]
            raise CheckpointError(f"it holds {shown[0]} at {path}, this run has {shown[1]}")
