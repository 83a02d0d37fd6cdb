"""Measure how fast decoding is, against peers and against the floor the hardware sets.

    python -m experiments.benchmark --suite=list            what there is
    python -m experiments.benchmark --suite=cpu_decode      measure; the result goes to benchmarks/results/
    python -m experiments.benchmark --suite=cpu_decode --smoke
    python -m experiments.benchmark --render                write docs/benchmarks.md, docs/papers.md and the figures
    python -m experiments.benchmark --render --check        exit 1 if the pages are not what the results say

Engines run in processes of their own and take turns; load of other processes is recorded with every measurement, and loud
rounds are repeated. Ctrl-C keeps the rounds measured so far: the same command goes on from there.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from rich.console import Console

from experiments.benchmarks import cpu_decode, gpu_decode, rendering
from experiments.benchmarks.suite import Options
from experiments.benchmarks.worker_process import PROJECT_ROOT, WorkerError

SUITES: dict[str, Callable[[Options, Console], Path]] = {"cpu_decode": cpu_decode.run, "gpu_decode": gpu_decode.run}
RESULTS = PROJECT_ROOT / "benchmarks" / "results"


def define_flags() -> flags.FlagValues:
    """The flags of this command, in a set of their own."""
    values = flags.FlagValues()
    flags.DEFINE_string("suite", None, f"{', '.join(SUITES)}, or 'list'", flag_values=values)
    flags.DEFINE_string("out", str(RESULTS), "folder for the results", flag_values=values)
    flags.DEFINE_integer("rounds", None, "rounds per case (default 7, smoke 2)", flag_values=values)
    flags.DEFINE_integer("repeats", 2, "how often a loud round is repeated", lower_bound=0, flag_values=values)
    flags.DEFINE_float(
        "wait_quiet", 0.0, "seconds to wait for a quiet machine before each round", lower_bound=0.0, flag_values=values
    )
    flags.DEFINE_string(
        "model", "smollm2-135m-instruct", "registered name or GGUF file (cpu_decode)", flag_values=values
    )
    flags.DEFINE_bool("smoke", False, "tiny random models: does it run, not how fast", flag_values=values)
    flags.DEFINE_bool("render", False, "write the pages and figures from the results in --out", flag_values=values)
    flags.DEFINE_bool("check", False, "with --render: compare the pages instead of writing them", flag_values=values)
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    console = Console(stderr=True)
    values = define_flags()
    try:
        rest = values(list(argv))[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}")
        if values.help:
            print(f"{__doc__}\n{values.get_help(include_special_flags=False)}")
            return 0
        if values.render:
            return rendering.render(Path(values.out), PROJECT_ROOT / "docs", check=values.check, console=console)
        if values.suite == "list":
            for name, suite in SUITES.items():
                print(f"{name}: {(sys.modules[suite.__module__].__doc__ or '').splitlines()[0].partition(': ')[2]}")
            return 0
        return measure(values, console)
    except (flags.Error, ValueError, FileNotFoundError, WorkerError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted: the rounds measured so far are kept, the same command goes on from there")
        return 130


def measure(values: flags.FlagValues, console: Console) -> int:
    """Run one suite.

    Raises:
      ValueError: a flag that makes no sense.
    """
    if values.suite not in SUITES:
        raise ValueError(f"--suite must be one of {', '.join(SUITES)}, list; got {values.suite!r}")
    rounds = values.rounds if values.rounds is not None else 2 if values.smoke else 7
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {rounds}")
    options = Options(
        out=Path(values.out),
        rounds=rounds,
        smoke=values.smoke,
        wait_quiet=values.wait_quiet,
        repeats=0 if values.smoke else values.repeats,
        model=values.model,
    )
    path = SUITES[values.suite](options, console)
    rendering.show(path, console)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
