"""The config of a training run: what a config file may set, and what it means.

``data``, ``recipe``, ``optimizer`` and ``mesh`` are sections whose fields depend on the names in them; those who read them
refuse what they do not know. Everything else is listed in ``DEFAULTS``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import PartitionSpec

from experiments.config_file import read_config
from experiments.papers.command import merged
from experiments.training.fields import updated
from jaxdec.parallel import ShardingRules

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "steps": 1000,
    "batch_size": 64,  # rows over all devices
    "accumulate": 1,  # parts of a batch, one after the other
    "ema": 0.0,  # decay of the average of the parameters; 0 keeps none
    "precision": "float32",  # or bfloat16
    "save_every": 500,
    "evaluate_every": 500,
    "log_every": 50,
    "sharding": {
        "fully_sharded": False,
        "rules": (),
    },  # rules: pairs (pattern, (axis or None, ...)), or ("tensor_parallel",)
}
SECTIONS: dict[str, Any] = {"data": {}, "recipe": {}, "optimizer": {}, "mesh": {"data": -1}}
PLACEMENT = ("steps", "save_every", "evaluate_every", "log_every", "sharding", "mesh")
"""Fields in which a run that goes on may differ from the one before."""


def training_config(
    path: Path, *, smoke: bool = False, overrides: Mapping[str, Any] | None = None, steps: int | None = None
) -> dict[str, Any]:
    """The whole config: the file's fields, for a smoke run what its ``smoke`` changes, then the command line's.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that does not run, an unknown field, a section that is missing, a value of another type.
    """
    config = plain(read_config(path))
    smoke_changes = config.pop("smoke", {})
    config = _applied({**DEFAULTS, **SECTIONS}, config, f"--config={path}", replace=True)
    if smoke:
        config = _applied(config, smoke_changes, "smoke")
    config = _applied(config, plain(overrides or {}), "--config")
    if steps is not None:
        config["steps"] = steps
    for section in SECTIONS:
        if not config[section]:
            raise ValueError(f"--config={path}: section {section!r} is missing")
        if not isinstance(config[section], Mapping):
            raise ValueError(f"--config={path}: section {section!r} has fields of its own, got {config[section]!r}")
    for field, default in DEFAULTS.items():
        if isinstance(default, int) and not isinstance(config[field], int):
            raise ValueError(f"--config={path}: field {field!r} must be a whole number, got {config[field]}")
    for field in ("steps", "batch_size", "log_every"):  # the trainer sees to the others
        if config[field] < 1:
            raise ValueError(f"--config={path}: field {field!r} must be at least 1, got {config[field]}")
    return plain(config)


def _applied(
    config: Mapping[str, Any], changes: Mapping[str, Any], source: str, *, replace: bool = False
) -> dict[str, Any]:
    """``config`` with changes: checked where the fields are known, as they are within sections."""
    fixed = {field: value for field, value in changes.items() if field not in SECTIONS}
    known = merged({**config}, fixed, source)
    for section in SECTIONS:
        if section in changes:
            before = {section: {} if replace else config[section]}
            known[section] = updated(before, {section: changes[section]})[section]
    return known


def plain(value: Any) -> Any:
    """What JSON makes of nested mappings and lists, so that a config that was written and read is the same."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(field): plain(entry) for field, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return json.loads(json.dumps(value))


def sharding_rules(config: Mapping[str, Any]) -> ShardingRules:
    """Rules from ``config["sharding"]``.

    Raises:
      ValueError: rules that are not pairs of a pattern and axes.
    """
    section = config["sharding"]
    if section["rules"] == ["tensor_parallel"]:
        from jaxdec.training.recipes.language_model import TENSOR_PARALLEL

        return ShardingRules(TENSOR_PARALLEL, section["fully_sharded"])
    patterns = []
    for rule in section["rules"]:
        pair = isinstance(rule, list) and len(rule) == 2 and isinstance(rule[0], str) and isinstance(rule[1], list)
        if not pair:
            raise ValueError(
                f"config.sharding: rules must be ('tensor_parallel',) or pairs (pattern, (axis or None, ...)), got {rule!r}"
            )
        patterns.append(
            (rule[0], PartitionSpec(*(tuple(axis) if isinstance(axis, list) else axis for axis in rule[1])))
        )
    return ShardingRules(tuple(patterns), section["fully_sharded"])


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Fields of which a run that goes on would make another training."""
    return sorted(field for field in {*before, *now} - set(PLACEMENT) if before.get(field) != now.get(field))
