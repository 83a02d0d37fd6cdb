"""Writing folders so that a reader never sees half of one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder`` that takes its place if the block succeeds, and vanishes if not.

    Raises:
      FileExistsError: ``folder`` exists and ``overwrite`` is False.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists; give overwrite=True to replace it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        target = scratch / "new"
        target.mkdir()
        yield target
        if folder.exists():
            os.replace(folder, scratch / "old")
        os.replace(target, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
