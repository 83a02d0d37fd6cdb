"""The command ``experiments.reproduce``: its flags, and what they ask for."""

import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from experiments.config_file import read_config
from experiments.record import PROJECT_ROOT

OUT = PROJECT_ROOT / "out" / "papers"


def define_flags() -> flags.FlagValues:
    """The flags of this command, in a set of their own."""
    values = flags.FlagValues()
    flags.DEFINE_string("paper", None, f"{', '.join(papers())}, or 'list'", flag_values=values)
    flags.DEFINE_string("out", None, "folder of the result (default out/papers/NAME, smoke out/papers/NAME-smoke)",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool(
        "smoke", False, "small enough for two minutes: does it run, not what comes out", flag_values=values
    )
    flags.DEFINE_string("config", None, "Python file whose get_config() sets fields of the paper's config",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def papers() -> list[str]:
    """Names of the papers there are."""
    import configs.papers

    return sorted(module.name for module in pkgutil.iter_modules(configs.papers.__path__))


def run_command(arguments: Sequence[str], description: str) -> int:
    """Run the command; returns its exit status.

    Args:
      arguments: the command line, the program's name first.
      description: what ``--help`` says above the flags.
    """
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    values = define_flags()
    try:
        rest = values(list(arguments))[1:]
        if rest:
            raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
        if values.help:
            print(f"{description}\n{values.get_help(include_special_flags=False)}")
            return 0
        if values.paper == "list":
            for name in papers():
                print(f"{name}: {first_line(name)}")
            return 0
        return reproduce(values.paper, values.out, smoke=values.smoke, config_path=values.config)
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2


def first_line(name: str) -> str:
    """What the config of a paper says it is."""
    return (importlib.import_module(f"configs.papers.{name}").__doc__ or "").splitlines()[0]


def reproduce(name: str | None, out: str | None, *, smoke: bool, config_path: str | None) -> int:
    """Run one replica and write its result; returns an exit status.

    Raises:
      ValueError: an unknown paper, a config that does not fit, or a folder that holds a full result and would get a smoke one.
      OSError: a folder that cannot be written to.
    """
    if name not in papers():
        given = "none was given" if name is None else f"got {name!r}"
        raise ValueError(f"--paper must be one of {', '.join(papers())}, or list; {given}")
    config = config_of(name, smoke=smoke, path=Path(config_path) if config_path else None)
    folder = Path(out) if out else OUT / (f"{name}-smoke" if smoke else name)
    check_folder(folder, smoke=smoke)
    from experiments.papers import progress, report
    from experiments.record import environment, write_json, write_text

    module = importlib.import_module(f"experiments.papers.{name}")
    with progress.on_stderr() as shown:
        metrics = module.run(config, folder, shown)
    report.check_metrics(metrics)
    flags_given = [
        f"--paper={name}",
        *(["--smoke"] if smoke else []),
        *([f"--config={config_path}"] if config_path else []),
    ]
    metrics = {
        "paper": name,
        "command": " ".join(["python -m experiments.reproduce", *flags_given]),
        "smoke": smoke,
        **(report.without_verdicts(metrics) if smoke else metrics),
        "config": config,
        "environment": environment(),
    }
    text = report.report(metrics)
    write_json(folder / "metrics.json", metrics)
    write_text(folder / "report.md", text)
    for claim in metrics["claims"]:
        print(f"[{report.MARKS[claim['reproduced']].strip('*')}] {claim['claim']}")
        print(f"    paper: {claim['paper']}\n    here:  {claim['measured']}")
    print(folder / "report.md")
    return 0


def config_of(name: str, *, smoke: bool, path: Path | None) -> dict[str, Any]:
    """The paper's config as a plain dictionary: its own, then for a smoke run what its ``smoke`` sets, then the user's file."""
    config = importlib.import_module(f"configs.papers.{name}").get_config().to_dict()
    overrides = config.pop("smoke")
    if smoke:
        config = merged(config, overrides, "smoke")
    if path is not None:
        config = merged(config, read_config(path), f"--config={path}")
    return json.loads(json.dumps(config))


def merged(config: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``config`` with the fields of ``changes`` in it, at any depth.

    Raises:
      ValueError: a field that ``config`` does not have, or a value of another type.
    """
    result = dict(config)
    for field, value in changes.items():
        if field not in config:
            raise ValueError(f"{source}: unknown field {field!r}; known: {', '.join(sorted(config))}")
        before = config[field]
        if isinstance(before, Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"{source}: field {field!r} has fields of its own, got {value!r}")
            result[field] = merged(before, value, f"{source}: {field}")
        elif kind(value) != kind(before):
            raise ValueError(f"{source}: field {field!r} must be a {kind(before)} such as {before!r}, got {value!r}")
        else:
            result[field] = value
    return result


def kind(value: Any) -> str:
    """Name of the sort of a value; whole numbers pass for numbers."""
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    sorts = {"number": (int, float), "text": str, "list": (list, tuple)}
    return next((name for name, types in sorts.items() if isinstance(value, types)), type(value).__name__)


def check_folder(folder: Path, *, smoke: bool) -> None:
    """Find out now whether the result can be written, and keep a full result from being replaced by a smoke one.

    Raises:
      ValueError: the folder holds a full result and this is a smoke run.
      OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if smoke and isinstance(before, dict) and before.get("smoke") is False:
        raise ValueError(f"--out={folder} holds the result of a full run: give a smoke run another folder")
