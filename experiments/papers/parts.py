"""The parts of a replica: JSON files under ``OUT/parts``, each computed once.

A part is used again only if it was made by the same config, the same version of jax on the same kind of device, and the same
code: the package ``jaxdec`` and the modules of the replica that compute rather than report.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from experiments.record import PROJECT_ROOT, write_json, write_text


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts made, and to be made, under one key.

    Attributes:
      folder: where they lie. Git is told to ignore it.
      key: what a part depends on; JSON.
    """

    folder: Path
    key: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, config: Mapping[str, Any], modules: Sequence[ModuleType]) -> "Parts":
        """Parts for a config, computed by ``modules`` and ``jaxdec``."""
        sources = [*(PROJECT_ROOT / "jaxdec").rglob("*.py"), *(Path(module.__file__ or "") for module in modules)]
        key = {
            "config": config,
            "sources": digest_of(sources),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
        write_text(folder / ".gitignore", "*\n")
        return cls(folder, json.loads(json.dumps(key)))

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The part called ``name``: read, or else computed and written.

        Args:
          name: a file name without its ending.
          compute: returns something JSON can hold.
        """
        path = self.folder / f"{name}.json"
        stored = self._stored(path)
        if stored is None:
            begin = time.perf_counter()
            value = compute()
            write_json(path, {"key": self.key, "seconds": time.perf_counter() - begin, "value": value})
            stored = self._stored(path)
            assert stored is not None
        return stored["value"]

    def subfolder(self, name: str) -> Path:
        """A folder for what is no JSON, such as checkpoints, that belongs to this key; folders of other keys are removed."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:12]
        mine = self.folder / f"{name}-{digest}"
        for other in self.folder.glob(f"{name}-*"):
            if other != mine:
                shutil.rmtree(other)
        mine.mkdir(parents=True, exist_ok=True)
        return mine

    def seconds(self) -> float:
        """Time that the parts of this key took to compute."""
        stored = map(self._stored, sorted(self.folder.glob("*.json")))
        return sum(part["seconds"] for part in stored if part is not None)

    def _stored(self, path: Path) -> dict[str, Any] | None:
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return part if isinstance(part, dict) and part.get("key") == self.key else None


def digest_of(paths: Sequence[Path]) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
