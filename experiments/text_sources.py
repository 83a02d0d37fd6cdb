"""Texts to build datastores from: files, answers that a model gave, and what is installed with Python anyway.

Everything is read in a fixed order, and only as far as it is asked for.
"""

import ast
import glob
import importlib.metadata
import json
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

NOT_PROSE = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "__pycache__"}
"""Folders of the standard library that are passed over."""


class Text(NamedTuple):
    """One text; ``token_ids`` are those of a model that said it."""

    text: str
    token_ids: list[int] | None = None


class Source(NamedTuple):
    """Texts that belong together, under a name for the reader."""

    name: str
    texts: Iterator[Text]


def python_texts() -> list[Source]:
    """English and code that come with Python: the reference of the language, and what its library says of itself."""
    version = platform.python_version()
    return [
        Source(f"the language reference of Python {version} (pydoc_data.topics)", _reference()),
        Source(f"the docstrings of the standard library of Python {version}", _docstrings()),
    ]


def installed_texts() -> list[Source]:
    """What every machine with this project has: :func:`python_texts`, and the descriptions of the installed packages."""
    packages = _packages()
    names = ", ".join(f"{name} {metadata['Version']}" for name, metadata in packages)
    return [
        *python_texts(),
        Source(
            f"the descriptions of {len(packages)} installed packages ({names})",
            (Text(str(metadata.get_payload() or "")) for _, metadata in packages),  # pyright: ignore[reportAttributeAccessIssue]
        ),
    ]


def text_files(patterns: Sequence[str]) -> list[Source]:
    """One source per file; ``**`` in a pattern matches any folders.

    Raises:
      ValueError: a pattern that matches no file.
    """
    return [Source(str(path), _whole(path)) for path in _files("text", patterns)]


def model_outputs(patterns: Sequence[str]) -> list[Source]:
    """Answers of ``experiments.generate``: JSONL files of objects with ``text``, and ``token_ids`` if the model is known.

    Raises:
      ValueError: a pattern that matches no file.
    """
    return [Source(str(path), _answers(path)) for path in _files("model_outputs", patterns)]


def _files(flag: str, patterns: Sequence[str]) -> list[Path]:
    """Files that patterns match, each once, sorted within a pattern.

    Raises:
      ValueError: a pattern without one.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        whole = os.path.expanduser(pattern)
        names = [whole] if os.path.exists(whole) else sorted(glob.glob(whole, recursive=True))
        files = [Path(name) for name in names if os.path.isfile(name)]
        if not files:
            raise ValueError(f"--{flag}={pattern}: there is no such file, and no file that this matches")
        found |= dict.fromkeys(files)
    return list(found)


def _read(flag: str, path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--{flag}={path}: it is not UTF-8: {error}") from None
    except OSError as error:
        raise ValueError(f"--{flag}={path}: {error.strerror}") from None


def _whole(path: Path) -> Iterator[Text]:
    yield Text(_read("text", path))


def _answers(path: Path) -> Iterator[Text]:
    for number, line in enumerate(_read("model_outputs", path).split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"--model_outputs={path}: line {number} is not JSON: {error}") from None
            yield from _texts_of(entry, f"--model_outputs={path}: line {number}")


def _texts_of(entry: Any, where: str) -> Iterator[Text]:
    """The text of an answer and of its alternatives, or those of all answers of a ``--json`` object."""
    if not isinstance(entry, dict) or (not isinstance(entry.get("text"), str) and "generations" not in entry):
        raise ValueError(f"{where} must be an object with a 'text', got {json.dumps(entry)[:80]}")
    if "text" in entry:
        ids = entry.get("token_ids")
        whole = isinstance(ids, list) and all(type(token) is int for token in ids)
        yield Text(entry["text"], ids if whole else None)
    for name in ("generations", "alternatives"):
        for other in entry.get(name) or ():
            yield from _texts_of(other, where)


def _reference() -> Iterator[Text]:
    from pydoc_data.topics import topics

    yield from (Text(topics[name]) for name in sorted(topics))


def _docstrings() -> Iterator[Text]:
    """A text per module: its docstring and those of what it defines."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(paths):
        if NOT_PROSE.isdisjoint(name.split("/")):
            try:
                with warnings.catch_warnings(action="ignore"):
                    nodes = ast.walk(ast.parse(paths[name].read_bytes()))
            except (OSError, SyntaxError, ValueError):
                continue  # a template, or a file that is broken on purpose
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
            yield Text("\n\n".join(text for text in found if text))


def _packages() -> list[tuple[str, Any]]:
    """Installed packages by name, each once."""
    by_name: dict[str, Any] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        if metadata and metadata["Name"]:
            by_name.setdefault(metadata["Name"], metadata)  # the first is the one that is imported
    return sorted(by_name.items(), key=lambda item: (item[0].lower(), item[0]))
