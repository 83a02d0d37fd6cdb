"""Prompts of an evaluation, from JSON lines: ``{"id": ..., "family": ..., "prompt": ...}``."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.record import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "experiments" / "specbench"
FAMILY_PROMPTS = FOLDER / "prompts.jsonl"
DOMAIN_PROMPTS = FOLDER / "domain_prompts.jsonl"
COPY_HEAVY = ("summarise", "extract", "edit")
"""Families whose prompts contain a text that the answer copies from."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One prompt.

    Attributes:
      id: unique among all prompts.
      group: its family, or its domain.
      text: what the user says.
    """

    id: str
    group: str
    text: str


def read_questions(path: Path, group: str) -> list[Question]:
    """All prompts of a file.

    Args:
      path: JSON lines.
      group: name of the field that holds the group.

    Raises:
      ValueError: a line that is no prompt, or an id that occurs twice.
      OSError: a file that cannot be read.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            questions.append(Question(entry["id"], entry[group], entry["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no prompt with id, {group} and prompt: {error!r}") from None
    ids = [question.id for question in questions]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"{path}: id {min(twice)!r} occurs twice")
    return questions


def groups_of(questions: Sequence[Question]) -> list[str]:
    """Groups, in the order in which they first occur."""
    return list(dict.fromkeys(question.group for question in questions))


def choose(questions: Sequence[Question], groups: Sequence[str], limit: int | None) -> list[Question]:
    """The first ``limit`` prompts of each of the groups named (of all if none is), in the order of the file.

    Raises:
      ValueError: a group that does not exist, or a limit below 1.
    """
    known = groups_of(questions)
    if unknown := [group for group in groups if group not in known]:
        raise ValueError(f"--families must be some of {', '.join(known)}; got {unknown[0]!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    wanted = groups or known
    members = {group: [question for question in questions if question.group == group][:limit] for group in wanted}
    return [question for question in questions if question in members.get(question.group, ())]
