"""JSONL files of prompts and answers. UTF-8, one JSON object a line; only ``\\n`` ends a line."""

import json
import os
from pathlib import Path
from typing import Any

Identifier = str | int


class PromptFileError(ValueError):
    """A file of prompts or answers that is not one; the message names the line."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read ``{"prompt": str}`` or ``{"messages": [...]}`` lines; ``"id"``, a text or an integer, is optional.

    Returns:
      ``{"id", "prompt"}`` per line, where a list of messages is a prompt too. Without an id, the prompt's number from 0.

    Raises:
      FileNotFoundError: no such file.
      PromptFileError: a file that is empty or not UTF-8, a line that is not such an object, or an id that occurs twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(f"it is not UTF-8: {error}") from None
    prompts, seen = [], {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise PromptFileError(f"line {number} is not JSON: {error}") from None
        if not isinstance(entry, dict) or ("prompt" in entry) == ("messages" in entry):
            raise PromptFileError(
                f"line {number} must be an object with one of 'prompt' and 'messages', got {line[:80]}"
            )
        prompt = entry.get("prompt", entry.get("messages"))
        if not prompt or not isinstance(prompt, str if "prompt" in entry else list):
            raise PromptFileError(f"line {number}: 'prompt' must be a non-empty text, 'messages' a non-empty list")
        if not is_text(json.dumps(prompt, ensure_ascii=False)):
            raise PromptFileError(f"line {number} holds half a surrogate pair, which is no character")
        identifier = entry.get("id", len(prompts))
        if not _is_identifier(identifier):
            raise PromptFileError(f"line {number}: 'id' must be a text or an integer, got {identifier!r}")
        if identifier in seen:
            raise PromptFileError(f"line {number}: id {identifier!r} was used in line {seen[identifier]}")
        seen[identifier] = number
        prompts.append({"id": identifier, "prompt": prompt})
    if not prompts:
        raise PromptFileError("it holds no prompt")
    return prompts


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8: arguments that were not UTF-8, and half surrogate pairs, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def finished_ids(path: Path) -> set[Identifier]:
    """Ids answered in an output file. Answers whose ``finish_reason`` is ``"interrupted"`` do not count.

    A last line that an interruption cut short is removed from the file; a whole one that only lacks its line end gets it.

    Raises:
      PromptFileError: a line that is no answer; the file is then left as it is.
    """
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    lines = whole.split(b"\n")
    ids = {_answered(line, number) for number, line in enumerate(lines, start=1) if line.strip()}
    if torn:
        beginning = b'{"id": '  # of every answer: what begins otherwise is somebody else's, and not ours to remove
        try:
            ids.add(_answered(torn, len(lines)))
        except PromptFileError:
            if torn[: len(beginning)] != beginning[: len(torn)]:
                raise
            os.truncate(path, len(whole))
        else:
            with open(path, "ab") as file:
                file.write(b"\n")
    return {identifier for identifier in ids if identifier is not None}


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one JSON line, ``"id"`` first, and bring it to the disk."""
    line = json.dumps({"id": entry["id"], **entry}, ensure_ascii=False)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _answered(line: bytes, number: int) -> Identifier | None:
    """The id that a line answers, None for an interrupted answer."""
    try:
        entry = json.loads(line.decode())
        if _is_identifier(entry["id"]):
            return None if entry.get("finish_reason") == "interrupted" else entry["id"]
    except (ValueError, KeyError, TypeError):
        pass
    raise PromptFileError(f"line {number} is no answer with an 'id': {line[:80].decode(errors='replace')}")


def _is_identifier(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
