"""The command ``experiments.train``: its flags, and the run they ask for."""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

import jaxdec
from experiments.interrupts import STATUS, Interrupts
from experiments.papers import progress
from experiments.record import PROJECT_ROOT, environment, write_json
from experiments.training.config import differences, sharding_rules, training_config
from experiments.training.fields import split_arguments
from experiments.training.log import Log, draw_curves
from experiments.training_data import make_sources
from experiments.training_recipes import make_recipe
from jaxdec.data import InOrder, batches
from jaxdec.parallel import make_mesh, process_part, start_processes
from jaxdec.training.optimizers import make_optimizer
from jaxdec.training.trainer import Precision, TrainState, train

OUT = PROJECT_ROOT / "out" / "train"
CHECKPOINTS = "checkpoints"


def define_flags() -> flags.FlagValues:
    """The flags of this command, in a set of their own."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "Python file whose get_config() says what to train; single fields are set with "
                        "--config.section.field=value", flag_values=values)  # fmt: skip
    flags.DEFINE_string("out", None, "folder of the run (default out/train/NAME, smoke out/train/NAME-smoke)",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_integer("steps", None, "updates in all, in place of the config's", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("smoke", False, "the few seconds that the config's 'smoke' makes of it", flag_values=values)
    flags.DEFINE_bool("resume", False, "go on from the folder's newest checkpoint, if there is one", flag_values=values)
    flags.DEFINE_string("coordinator", None, "several processes: host:port of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "several processes: how many", flag_values=values)
    flags.DEFINE_integer("process_id", None, "several processes: which one this is, from 0", flag_values=values)
    flags.DEFINE_bool("distributed", False, "several processes: find the three flags before out by asking the cluster",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_bool("help", False, "show this", flag_values=values)
    return values


def run_command(arguments: Sequence[str], description: str, interrupts: Interrupts) -> int:
    """Run the command; returns its exit status.

    Args:
      arguments: the command line, the program's name first.
      description: what ``--help`` says above the flags.
      interrupts: installed, if Ctrl-C is to be answered.
    """
    logging.set_verbosity(logging.WARNING)  # jax reports every accelerator it does not find
    values = define_flags()
    try:
        rest, overrides = split_arguments(arguments)
        rest = values(rest)[1:]
        if rest:
            raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
        if values.help:
            print(f"{description}\n{values.get_help(include_special_flags=False)}")
            return 0
        if values.config is None:
            raise ValueError("--config must be given: a Python file such as configs/train/classifier_digits.py")
        start_processes(values.coordinator, values.num_processes, values.process_id, auto=values.distributed)
        jaxdec.enable_compilation_cache()
        path = Path(values.config)
        config = training_config(path, smoke=values.smoke, overrides=overrides, steps=values.steps)
        folder = Path(values.out) if values.out else OUT / (f"{path.stem}-smoke" if values.smoke else path.stem)
        command = " ".join(["python -m experiments.train", *arguments[1:]])
        return run(config, folder, resume=values.resume, command=command, interrupts=interrupts)
    except (flags.Error, ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2


def run(config: Mapping[str, Any], folder: Path, *, resume: bool, command: str, interrupts: Interrupts) -> int:
    """Train, and write the folder of the run; returns an exit status.

    Raises:
      ValueError: a config that does not fit, or a folder that holds another training.
      OSError: a folder that cannot be written to, data that are not there.
      FloatingPointError: training that diverged.
    """
    mesh = make_mesh(config["mesh"])
    rules = sharding_rules(config)
    made = check_folder(folder, config, resume=resume)
    source, test = make_sources(config["data"])
    steps = batches(source, config["batch_size"], config["seed"], part=process_part(mesh))
    recipe = make_recipe(config["recipe"], steps.at(0))
    optimizer = make_optimizer(config["optimizer"], config["steps"])
    precision = Precision(config["precision"])
    writing = jax.process_index() == 0
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("the folder has been looked at")
    if writing:
        write_json(folder / "config.json", config)
    with (
        progress.on_stderr() as shown,
        shown.task("training", max(1, config["steps"] - made)) as advance,
        contextlib.ExitStack() as stack,
    ):
        log = stack.enter_context(Log(folder, made, config["batch_size"], config["log_every"])) if writing else None

        def on_step(step: int, metrics: dict[str, float]) -> None:
            if jax.process_count() == 1:
                interrupts.keep_results()
            if log is not None:
                log.step(step, metrics)
            advance(f"update {step}, loss {metrics['loss']:.4f}")

        def on_eval(step: int, metrics: dict[str, float]) -> None:
            if log is not None:
                log.evaluation(step, metrics)

        state = train(
            recipe,
            optimizer,
            steps,
            config["steps"],
            key=jax.random.key(config["seed"]),
            folder=folder / CHECKPOINTS,
            save_every=config["save_every"],
            mesh=mesh,
            rules=rules,
            accumulate=config["accumulate"],
            ema=config["ema"] or None,
            precision=precision,
            evaluate_on=InOrder(test, config["batch_size"]),
            evaluate_every=config["evaluate_every"],
            on_step=on_step,
            on_eval=on_eval,
            stop=lambda: interrupts.requested,
        )
    return finish(state, config, folder, log, command)


def finish(state: TrainState, config: Mapping[str, Any], folder: Path, log: Log | None, command: str) -> int:
    """Write the result of a run that has come to its end, or say how to go on; returns an exit status."""
    made = int(state.step)
    if made < config["steps"]:
        line = (
            f"Interrupted after update {made} of {config['steps']}: with --resume the same command goes on from there."
        )
        print(line, file=sys.stderr, flush=True)
        return STATUS
    if log is None:
        return 0
    curves = draw_curves(log.lines, folder)
    result = {
        "command": command,
        "steps": made,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "train": log.last("train"),
        "evaluation": log.last("evaluation"),
        "config": config,
        "environment": environment(),
    }
    path = write_json(folder / "metrics.json", result)
    for name, value in (log.last("evaluation") or {}).items():
        if name not in ("kind", "step"):
            print(f"{name} {value:.4f}")
    print(f"{path}\n{curves}")
    return 0


def check_folder(folder: Path, config: Mapping[str, Any], *, resume: bool) -> int:
    """Find out now whether the folder may take the run; returns the updates of its newest checkpoint.

    Raises:
      ValueError: it holds checkpoints and nothing was said of going on, or those of another config.
      OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = folder / CHECKPOINTS
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()] if checkpoints.exists() else []
    if not steps:
        return 0
    if not resume:
        raise ValueError(
            f"--out={folder} holds a training of {max(steps)} updates: go on with --resume, or name another folder"
        )
    try:
        before = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--out={folder}: config.json of the run that should go on cannot be read: {error}") from None
    if changed := differences(before, config):
        shown = ", ".join(f"{field} (was {before.get(field)!r})" for field in changed)
        raise ValueError(f"--out={folder} was trained with another config; different: {shown}")
    return max(steps)
