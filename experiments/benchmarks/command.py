"""The command ``experiments.benchmark``: its flags, and what they ask for."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments.benchmarks import cpu_decode, gpu_decode, rendering
from experiments.benchmarks.kernels import suite as kernels
from experiments.benchmarks.long_context import suite as long_context
from experiments.benchmarks.suite import Options
from experiments.benchmarks.training import suite as training
from experiments.benchmarks.worker_process import PROJECT_ROOT, WorkerError
from experiments.interrupts import STATUS

SUITES: dict[str, Callable[[Options, Console], Path]] = {
    "cpu_decode": cpu_decode.run,
    "gpu_decode": gpu_decode.run,
    "kernels": kernels.run,
    "long_context": long_context.run,
    "training": training.run,
}
RESULTS = PROJECT_ROOT / "benchmarks" / "results"
DOCS = PROJECT_ROOT / "docs"
SMOKE_RESULTS = PROJECT_ROOT / "out" / "benchmarks"


def define_flags() -> flags.FlagValues:
    """The flags of this command, in a set of their own."""
    values = flags.FlagValues()
    flags.DEFINE_string("suite", None, f"{', '.join(SUITES)}, or 'list'", flag_values=values)
    flags.DEFINE_string(
        "out", None, "folder of the results (default benchmarks/results, smoke out/benchmarks)", flag_values=values
    )
    flags.DEFINE_integer("rounds", None, "rounds per case (default 7, smoke 2)", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("repeats", 2, "how often a loud round is repeated", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "wait_quiet", 0.0, "seconds to wait for a quiet machine before each round", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_string(
        "model", "smollm2-135m-instruct", "registered name or GGUF file (cpu_decode, long_context)", flag_values=values
    )
    flags.DEFINE_bool("smoke", False, "tiny random models: does it run, not how fast", flag_values=values)
    flags.DEFINE_bool("render", False, "write the pages and figures from the results in --out", flag_values=values)
    flags.DEFINE_bool("check", False, "with --render: compare the pages instead of writing them", flag_values=values)
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def run_command(argv: Sequence[str], description: str) -> int:
    """Run the command; returns its exit status.

    Args:
      argv: the command line, the program's name first.
      description: what ``--help`` says above the flags.
    """
    console = Console(stderr=True)
    values = define_flags()
    try:
        rest = values(list(argv))[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}")
        if values.help:
            print(f"{description}\n{values.get_help(include_special_flags=False)}")
            return 0
        if values.check and not values.render:
            raise ValueError("--check goes with --render")
        if values.render:
            if values.suite is not None:
                raise ValueError(f"give one of --render and --suite, got both (--suite={values.suite})")
            return rendering.render(Path(values.out or RESULTS), DOCS, check=values.check, console=console)
        if values.suite == "list":
            for name, suite in SUITES.items():
                print(f"{name}: {(sys.modules[suite.__module__].__doc__ or '').splitlines()[0].partition(': ')[2]}")
            return 0
        return measure(values, console)
    except (flags.Error, ValueError, OSError, WorkerError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if isinstance(error, WorkerError) else 2
    except KeyboardInterrupt:
        console.print("Interrupted: the rounds measured so far are kept, the same command goes on from there.")
        return STATUS


def measure(values: flags.FlagValues, console: Console) -> int:
    """Run one suite.

    Raises:
      ValueError: a flag that makes no sense.
    """
    if values.suite not in SUITES:
        raise ValueError(f"--suite must be one of {', '.join(SUITES)}, list; got {values.suite!r}")
    options = Options(
        out=Path(values.out or (SMOKE_RESULTS if values.smoke else RESULTS)),
        rounds=values.rounds or (2 if values.smoke else 7),
        smoke=values.smoke,
        wait_quiet=values.wait_quiet,
        repeats=0 if values.smoke else values.repeats,
        model=values.model,
    )
    options.out.mkdir(parents=True, exist_ok=True)  # what cannot be written to is found out now
    path = SUITES[values.suite](options, console)
    rendering.show(path, console)
    print(path)
    return 0
