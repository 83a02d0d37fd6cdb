"""Python files whose ``get_config()`` sets flags of a launcher."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags


def apply_config(path: Path, values: flags.FlagValues, names: Sequence[str], rivals: Mapping[str, str]) -> None:
    """Take flags that were not given on the command line from a config file.

    Args:
      path: a Python file; ``get_config()`` returns a mapping, such as an ``ml_collections.ConfigDict``. A field that is None
        leaves its flag alone.
      values: the flags.
      names: those that the config may set.
      rivals: a field is passed over if the flag that it stands in place of was given on the command line.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file does not run, is no config, sets something unknown, or a value that the flag does not take.
    """
    for name, value in read_config(path).items():
        if name not in names:
            raise ValueError(f"--config={path}: unknown field {name!r}; known: {', '.join(sorted(names))}")
        flag = values[name]
        try:
            value = None if value is None else _parse(flag, value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--config={path}: field {name!r}: {': '.join(map(str, error.args))}") from None
        given = flag.present or (name in rivals and values[rivals[name]].present)
        if value is not None and not given:
            flag.value = value


def read_config(path: Path) -> dict[str, Any]:
    """Run a config file; see :func:`apply_config`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file does not run, or is no config.
    """
    if not path.exists():
        raise FileNotFoundError(f"--config={path}: no such file")
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--config={path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
        return dict(config.items())
    except Exception as error:  # whatever the file does
        raise ValueError(f"--config={path}: {_place(error, path)}{type(error).__name__}: {error}") from None


def _place(error: Exception, path: Path) -> str:
    """``line 3: `` where the file itself is to blame."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "


def _parse(flag: flags.Flag, value: Any) -> Any:
    """Check a value as the command line would, by the flag's own parser."""
    if isinstance(flag, flags.MultiFlag):
        return [flag.parser.parse(item) for item in ([value] if isinstance(value, str) else list(value))]
    return flag.parser.parse(value)
