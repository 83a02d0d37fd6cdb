"""What is written beside every result: the environment it was measured in, JSON that is never half written, and tables."""

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

PROJECT_ROOT = Path(__file__).resolve().parents[1]
CPU_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni",
             "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "sve", "bf16", "i8mm")  # fmt: skip
"""Processor flags that decide how fast a matrix product is; the others are not recorded."""


def environment() -> dict[str, Any]:
    """Describe software, hardware and commit, ready for JSON. What cannot be found out is None."""
    ours = _git("rev-parse", "--show-toplevel") == str(PROJECT_ROOT)  # not that of a folder we happen to lie in
    commit = _git("rev-parse", "HEAD") if ours else None
    changes = _git("status", "--porcelain", "--untracked-files=no") if ours else None
    cpu = cpu_info()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "platform": platform.platform(),
        "backend": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "cpu_model": cpu["model"],
        "cpu_flags": cpu["flags"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def cpu_info(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Name of the processor and those of :data:`CPU_FLAGS` that it has."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return {"model": platform.processor() or platform.machine() or None, "flags": []}
    fields = dict(re.findall(r"^(model name|flags|Features)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {"model": fields.get("model name"), "flags": [flag for flag in CPU_FLAGS if flag in flags]}


def sources_digest(root: Path = PROJECT_ROOT) -> str:
    """SHA-256 over the names and contents of the project's Python files: tells uncommitted versions apart too."""
    digest = hashlib.sha256()
    for package in ("jaxdec", "pallas_kernels", "experiments"):
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` so that readers see the old file or the new one, never a part. Folders are made.

    Raises:
      TypeError: a value that JSON cannot hold.
      ValueError: NaN or infinity, which are not JSON.
    """
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    return write_text(path, text)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text the same way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(draft, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return path


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 3) -> str:
    """Format rows as a Markdown table; floats get ``digits`` significant digits, None becomes a dash.

    Raises:
      ValueError: a row of another width than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"row {list(row)} has {len(row)} cells, the header {len(header)}")

    def cell(value):
        if value is None:
            return "-"
        if isinstance(value, float):
            return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"
