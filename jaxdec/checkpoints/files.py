"""Writing folders so that a reader never sees half of one, and noticing when one was damaged later."""

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json

CHECKSUMS = "checksums.json"
HF_CONFIG, ORBAX_CONFIG = "config.json", "jaxdec_config.json"  # each marks a directory of its kind
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Check that :func:`replace_folder` may write to ``folder``: the earlier, the better.

    Raises:
      FileExistsError: there is something at ``folder``, and ``overwrite`` is False or it is not a checkpoint. (An
        ``overwrite`` with a slip of the pen must not delete somebody's home.)
    """
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists; give overwrite=True to replace it")
    is_checkpoint = folder.is_dir() and any((folder / name).is_file() for name in (HF_CONFIG, ORBAX_CONFIG))
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.is_symlink() or not (is_checkpoint or is_empty):
        raise FileExistsError(
            f"{folder} exists and is not a checkpoint folder: it is not replaced, even with overwrite=True"
        )


@contextlib.contextmanager
def replace_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its place if the block succeeds, and vanishes if not.

    Raises:
      FileExistsError: see :func:`check_replaceable`.
    """
    folder = Path(folder).absolute()
    check_replaceable(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = scratch / "old"
    try:
        target = scratch / "new"
        target.mkdir()
        yield target
        check_replaceable(folder, overwrite=overwrite)  # writing took a while
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(target, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_array(path: Path, dtype: Any, count: int, offset: int) -> np.ndarray:
    """Read ``count`` items of ``dtype`` at byte ``offset``, into memory of their own.

    Not through a memory map: an array that aliases a file changes, or crashes, with the file, and the pages read so far would
    count as ours, which doubles the memory that loading seems to take.

    Raises:
      CheckpointError: the file has become shorter since its header was read.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        array = np.fromfile(file, dtype, count)
    if array.size != count:
        raise CheckpointError(f"{path} was cut short while it was read")
    return array


def write_checksums(folder: Path, part: str) -> None:
    """Write the size and CRC-32 of every file below ``folder / part`` to ``checksums.json`` in ``folder``."""
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): _size_and_crc(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1))


def check_checksums(folder: Path) -> None:
    """Check the files that ``checksums.json`` lists; a folder without one passes.

    Raises:
      CheckpointError: a file that is missing or differs.
    """
    if not (folder / CHECKSUMS).exists():
        return
    for name, expected in read_json(folder / CHECKSUMS).items():
        try:
            found = _size_and_crc(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise CheckpointError(
                f"{folder / name} is cut short or corrupt: its size and CRC-32 are {found}, and were {expected} when written"
            )


def _size_and_crc(path: Path) -> list[int]:
    size = crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]
