"""Sections of a config that are chosen by a name and have fields of their own."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.papers.command import merged


def choose(
    section: str, kinds: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The kind that a section names, and its fields.

    Args:
      section: its name, for messages.
      kinds: known names, with the default of every field. A default that is an empty mapping takes any fields.
      config: ``name`` and some of the fields.

    Raises:
      ValueError: an unknown name or field, or a value of another type than the default's.
    """
    given = dict(config)
    name = given.pop("name", None)
    if name not in kinds:
        raise ValueError(f"config.{section}: name must be one of {', '.join(kinds)}, got {name!r}")
    open_fields = {
        field: given.pop(field) for field, default in kinds[name].items() if default == {} and field in given
    }
    for field, value in open_fields.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"config.{section}: field {field!r} has fields of its own, got {value!r}")
    return name, {**merged(kinds[name], given, f"config.{section} {name}"), **open_fields}


def updated(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``changes`` in it at any depth, new fields included."""
    result = dict(config)
    for field, value in changes.items():
        before = result.get(field)
        deeper = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[field] = updated(before, value) if deeper else value  # pyright: ignore[reportArgumentType]
    return result


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take ``--config.section.field=value`` out of a command line.

    Values are Python literals such as ``3e-4``, ``(64, 64)`` or ``True``; anything else is text.

    Returns:
      The other arguments, and the fields as nested dictionaries.

    Raises:
      ValueError: an argument without a value or a field.
    """
    rest, changes = [], {}
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        path, sign, text = argument.removeprefix("--config.").partition("=")
        *sections, field = path.split(".")
        if not sign or not all([*sections, field]):
            raise ValueError(f"{argument!r} must be written --config.section.field=value")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        for section in reversed(sections):
            field, value = section, {field: value}
        changes = updated(changes, {field: value})
    return rest, changes
