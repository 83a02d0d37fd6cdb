"""Named arrays and a few facts about them in one safetensors file, written whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from jaxdec.errors import CheckpointError


def save_arrays(path: Path, kind: str, arrays: Mapping[str, np.ndarray], **facts: str | int) -> None:
    """Write ``arrays``; ``kind`` says what they are, ``facts`` what else a reader must know."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"kind": kind, **{name: str(value) for name, value in facts.items()}}
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(contiguous, draft, metadata=metadata)
        os.chmod(draft, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def load_arrays(path: Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read ``(arrays, facts)``.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not such a file, cut short, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no {kind}, or cut short: {error}") from None
    if facts.get("kind") != kind:
        raise CheckpointError(f"{path} is no {kind}: it says it is {facts.get('kind', 'nothing')!r}")
    return arrays, facts


def kind_of(path: Path) -> str | None:
    """What kind of arrays a file says it holds; None if it is no such file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("kind")
    except (safetensors.SafetensorError, OSError):
        return None
