"""JSONL files of prompts and answers."""

import json
import os
from pathlib import Path
from typing import Any


class PromptFileError(ValueError):
    """A line that is no prompt; the message names it."""


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Read ``{"prompt": str}`` or ``{"messages": [...]}`` lines, ``"id"`` optional (the line's number from 0 otherwise).

    Returns:
      ``{"id", "prompt"}`` per line, where a list of messages is a prompt too.

    Raises:
      FileNotFoundError: no such file.
      PromptFileError: an empty file, a line that is not such an object, or an id that occurs twice.
    """
    prompts, seen = [], {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptFileError(f"line {number} is not JSON: {error}") from None
        if not isinstance(entry, dict) or ("prompt" in entry) == ("messages" in entry):
            raise PromptFileError(
                f"line {number} must be an object with one of 'prompt' and 'messages', got {line[:80]}"
            )
        prompt = entry.get("prompt", entry.get("messages"))
        if not prompt or not isinstance(prompt, str if "prompt" in entry else list):
            raise PromptFileError(f"line {number}: 'prompt' must be a non-empty text, 'messages' a non-empty list")
        identifier = entry.get("id", len(prompts))
        if identifier in seen:
            raise PromptFileError(f"line {number}: id {identifier!r} was used in line {seen[identifier]}")
        seen[identifier] = number
        prompts.append({"id": identifier, "prompt": prompt})
    if not prompts:
        raise PromptFileError("it holds no prompt")
    return prompts


def finished_ids(path: Path) -> set[Any]:
    """Ids answered in an output file; a last line cut short by an interruption is removed."""
    if not path.exists():
        return set()
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {json.loads(line)["id"] for line in whole.splitlines() if line.strip()}


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Append one JSON line and bring it to the disk."""
    with open(path, "a") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
