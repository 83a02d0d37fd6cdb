"""The command ``experiments.evaluate``: its flags, and what they ask for."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from rich.console import Console

from experiments.record import PROJECT_ROOT

OUT = PROJECT_ROOT / "benchmarks" / "results" / "evaluation"
SMOKE_OUT = PROJECT_ROOT / "out" / "evaluation"
SUITES = {
    "specbench": "speculative methods on six families of prompts, in the manner of Spec-Bench",
    "precision": "what models in bfloat16 and int8 cost and give, beside float32",
    "long_context": "rules that read or keep less of a long context, on retrieval tasks and passages",
}
FLAGS_OF_ONE_SUITE = {
    "methods": "specbench",
    "dtype": "specbench",
    "peer": "specbench",
    "text": "specbench",
    "measure": "precision",
    "tokens": "long_context",
}
NOT_OF_LONG_CONTEXT = ("families", "max_new_tokens", "rounds", "repeats")
SMOKE = {"limit": 1, "rounds": 1, "max_new_tokens": 8, "repeats": 0}
"""What a smoke run takes where nothing else is asked for."""
QUICK_COMPILING = "jax_disable_most_optimizations"
"""Set during a smoke run, whose time is spent compiling."""


def define_flags() -> flags.FlagValues:
    """The flags of this command, in a set of their own."""
    values = flags.FlagValues()

    def integer(name: str, default: int | None, about: str, lowest: int):
        flags.DEFINE_integer(name, default, about, lower_bound=lowest, flag_values=values)

    flags.DEFINE_string("suite", None, f"{', '.join(SUITES)}, or 'list'", flag_values=values)
    about = "arms, by name (default: all but int8_greedy, int8_prompt_lookup, lookahead_56); their baseline always takes part"
    flags.DEFINE_list("methods", None, about, flag_values=values)
    about = "text file, or a pattern of such, for the memory of drafters beside the model's outputs; may be given several times"
    flags.DEFINE_multi_string("text", [], about, flag_values=values)
    flags.DEFINE_string("model", "smollm2-135m-instruct", "registered name, directory or GGUF file", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16", "float64", "int8"], "of the model", flag_values=values
    )
    about = (
        "parts of 'precision' to measure: quality, timing (default: both); the other is taken from the newest result"
    )
    flags.DEFINE_list("measure", None, about, flag_values=values)
    integer("tokens", None, "of a prompt of 'long_context' and 8 timed steps, at most (default 1024, smoke 768)", 512)
    integer("max_new_tokens", None, "budget of every prompt (default 64, smoke 8)", 2)
    integer("rounds", None, "how often everything timed is measured (default 2, of 'precision' 5, smoke 1)", 1)
    flags.DEFINE_list("families", None, "families of prompts (default: all)", flag_values=values)
    integer(
        "limit",
        None,
        "prompts per family, domain or task (default: all, of 'precision' 2, of 'long_context' 3, smoke 1)",
        1,
    )
    integer("repeats", None, "how often a loud round of a prompt is repeated (default 1, smoke 0)", 0)
    flags.DEFINE_float("wait_quiet", 0.0, "seconds to wait for a quiet machine before each round of a prompt", lower_bound=0.0,
                       flag_values=values)  # fmt: skip
    integer("seed", 0, "seed of the bootstrap", 0)
    flags.DEFINE_bool("peer", True, "let llama.cpp take part if it is installed", flag_values=values)
    flags.DEFINE_bool("smoke", False, "a tiny random model: does it run, not how well", flag_values=values)
    flags.DEFINE_string("out", None, "folder of the result (default benchmarks/results/evaluation, smoke out/evaluation)",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def run_command(arguments: Sequence[str], description: str) -> int:
    """Run the command; returns its exit status.

    Args:
      arguments: the command line, the program's name first.
      description: what ``--help`` says above the flags.
    """
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    console = Console(stderr=True)
    values = define_flags()
    try:
        rest = values(list(arguments))[1:]
        if rest:
            raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
        if values.help:
            print(f"{description}\n{values.get_help(include_special_flags=False)}")
            return 0
        if values.suite == "list":
            print("\n".join(f"{name}: {about}" for name, about in SUITES.items()))
            return 0
        return evaluate(values, console)
    except (flags.Error, ValueError, OSError, FloatingPointError) as error:  # the last: a model that returns NaN
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2


def evaluate(values: flags.FlagValues, console: Console) -> int:
    """Run the suite.

    Raises:
      ValueError: a flag that makes no sense.
    """
    if values.suite not in SUITES:
        given = "none was given" if values.suite is None else f"got {values.suite!r}"
        raise ValueError(f"--suite must be one of {', '.join(SUITES)}, or list; {given}")
    for name, suite in FLAGS_OF_ONE_SUITE.items():
        if values[name].present and values.suite != suite:
            raise ValueError(f"--{name} is a flag of --suite={suite}, got it with --suite={values.suite}")
    if values.suite == "long_context":
        for name in NOT_OF_LONG_CONTEXT:
            if values[name].present:
                raise ValueError(f"--{name} is no flag of --suite=long_context")
    import jax

    from experiments.benchmarks.worker_process import WorkerError
    from experiments.evaluation import long_context, long_context_page, page, precision, precision_page, specbench
    from experiments.papers import progress

    suites = {
        "specbench": (specbench, options_of),
        "precision": (precision, precision_options_of),
        "long_context": (long_context, long_context_options_of),
    }
    suite, read = suites[values.suite]
    options = read(values)
    options.out.mkdir(parents=True, exist_ok=True)  # what cannot be written to is found out now
    before = jax.config.values[QUICK_COMPILING]
    try:
        jax.config.update(QUICK_COMPILING, before or options.smoke)
        with progress.on_stderr() as shown:
            path = suite.run(options, console, shown)
    except WorkerError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    finally:
        jax.config.update(QUICK_COMPILING, before)
    if values.suite == "specbench":
        print(page.section(page.read_result(path), with_figures=False))
    elif values.suite == "precision":
        print(precision_page.precision_section(precision_page.read_precision(path), with_figures=False))
    else:
        print(long_context_page.long_context_section(long_context_page.read_long_context(path), with_figures=False))
    print(path)
    return 0


def options_of(values: flags.FlagValues) -> Any:
    """Options of the suite ``specbench``.

    Raises:
      ValueError: an unknown arm or family, or a text that is not there.
    """
    from experiments.evaluation.arms import DEFAULT_ARMS, choose_arms
    from experiments.evaluation.specbench import Options
    from experiments.text_sources import text_files

    common = common_options(values, Options)
    return Options(
        arms=tuple(choose_arms(values.methods or DEFAULT_ARMS)),
        dtype=values.dtype,
        peer=values.peer,
        text=tuple(source.name for source in text_files(values.text)),
        **common,
    )


def precision_options_of(values: flags.FlagValues) -> Any:
    """Options of the suite ``precision``.

    Raises:
      ValueError: an unknown part or family.
    """
    from experiments.evaluation.precision import MEASURES, PrecisionOptions

    measure = tuple(values.measure or MEASURES)
    if unknown := [name for name in measure if name not in MEASURES]:
        raise ValueError(f"--measure must be some of {', '.join(MEASURES)}; got {unknown[0]!r}")
    return PrecisionOptions(measure=measure, **common_options(values, PrecisionOptions))


def long_context_options_of(values: flags.FlagValues) -> Any:
    """Options of the suite ``long_context``."""
    import jaxdec
    from experiments.evaluation.long_context import SMOKE_TOKENS, LongContextOptions

    jaxdec.enable_compilation_cache()
    smoke: dict[str, Any] = {"tokens": SMOKE_TOKENS, "limit": SMOKE["limit"]} if values.smoke else {}
    given: dict[str, Any] = {name: values[name].value for name in ("tokens", "limit") if values[name].value is not None}
    return LongContextOptions(
        out=folder_of(values),
        model="smoke" if values.smoke else values.model,
        wait_quiet=values.wait_quiet,
        seed=values.seed,
        smoke=values.smoke,
        **(smoke | given),
    )


def folder_of(values: flags.FlagValues) -> Path:
    """Where the result goes."""
    return Path(values.out).expanduser() if values.out else SMOKE_OUT if values.smoke else OUT


def common_options(values: flags.FlagValues, options: type) -> dict[str, Any]:
    """What these two suites have.

    Args:
      values: the flags.
      options: the suite's class of options, for its defaults.

    Raises:
      ValueError: an unknown family.
    """
    import jaxdec
    from experiments.evaluation.prompts import FAMILY_PROMPTS, choose, read_questions

    jaxdec.enable_compilation_cache()
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(options)}
    preset: Callable[[str], Any] = lambda name: SMOKE.get(name, defaults[name]) if values.smoke else defaults[name]  # noqa: E731
    given: dict[str, Any] = {name: preset(name) if values[name].value is None else values[name].value for name in SMOKE}
    families = tuple(values.families or ())
    choose(read_questions(FAMILY_PROMPTS, "family"), families, given["limit"])
    return {
        "out": folder_of(values),
        "families": families,
        "model": "smoke" if values.smoke else values.model,
        "wait_quiet": values.wait_quiet,
        "seed": values.seed,
        "smoke": values.smoke,
        **given,
    }
