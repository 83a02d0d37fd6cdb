"""The training launcher: what a run leaves, going on, refusals; as processes: Ctrl-C, and two that train together."""

import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import configs.train
from experiments.interrupts import Interrupts
from experiments.training.command import define_flags, run_command
from experiments.training.config import training_config
from experiments.training.fields import split_arguments
from experiments.training_data import make_sources
from experiments.training_recipes import make_recipe
from jaxdec.data import batches
from jaxdec.training.optimizers import make_optimizer
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

CONFIG = """
def get_config():
    return {
        "steps": 8, "batch_size": 32, "save_every": 3, "evaluate_every": 4, "log_every": 2, "ema": 0.5,
        "data": {"name": "digits", "test_fraction": 0.1},
        "recipe": {"name": "classifier", "model": {"name": "mlp", "widths": (8,)}},
        "optimizer": {"name": "adamw", "learning_rate": 1e-2},
        "smoke": {"steps": 2},
    }
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(config, capsys):
    """``run(*flags)`` returns exit status, stdout and stderr of the command on the small config."""

    def run(*flags, interrupts=None):
        status = run_command(
            ["train", f"--config={config}", *map(str, flags)], "What it does.", interrupts or Interrupts("")
        )
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


class AskedAt(Interrupts):
    """Somebody presses Ctrl-C after some updates."""

    def __init__(self, asked: int):
        self.asked = asked
        super().__init__("")

    @property
    def requested(self):
        self.asked -= 1
        return self.asked < 0

    @requested.setter
    def requested(self, value):
        pass


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "rows_per_second"} for line in lines]


def test_a_run_that_goes_on_leaves_what_one_without_a_break_leaves(run, config, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    status, stdout, _ = run(f"--out={straight}")
    assert status == 0
    assert sorted(path.name for path in straight.iterdir()) == [
        "checkpoints",
        "config.json",
        "curves.svg",
        "events",
        "metrics.json",
        "metrics.jsonl",
    ]
    metrics = json.loads((straight / "metrics.json").read_text())
    assert metrics["command"] == f"python -m experiments.train --config={config} --out={straight}"
    assert (metrics["steps"], metrics["parameters"]) == (8, 8 * 65 + 9 * 10)
    assert {"jax", "commit", "cpu_model"} <= set(metrics["environment"])
    assert metrics["config"] == json.loads((straight / "config.json").read_text())
    assert metrics["evaluation"]["nats"] < 2.3
    assert stdout == (
        f"accuracy {metrics['evaluation']['accuracy']:.4f}\nnats {metrics['evaluation']['nats']:.4f}\n"
        f"{straight / 'metrics.json'}\n{straight / 'curves.svg'}\n"
    )
    lines = lines_of(straight)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 2), ("train", 4), ("evaluation", 4), ("train", 6), ("train", 8), ("evaluation", 8),
    ]  # fmt: skip
    assert set(lines[0]) == {"kind", "step", "loss", "grad_norm", "accuracy"}

    status, stdout, stderr = run(f"--out={broken}", interrupts=AskedAt(4))
    assert (status, stdout) == (130, "")
    assert "Interrupted after update 5 of 8: with --resume the same command goes on from there." in stderr
    assert not (broken / "metrics.json").exists()
    with (broken / "metrics.jsonl").open("a") as file:  # as a process that was killed later leaves it
        file.write('{"kind": "train", "step": 6, "loss": 0}\n{"kind": "tr')
    status, _, stderr = run(f"--out={broken}")
    assert status == 2
    assert f"--out={broken} holds a training of 5 updates: go on with --resume, or name another folder" in stderr
    status, _, stderr = run(f"--out={broken}", "--resume", "--config.seed=1", "--config.optimizer.learning_rate=1")
    assert status == 2
    assert (
        "trained with another config; different: optimizer (was {'name': 'adamw', 'learning_rate': 0.01}), seed"
        in stderr
    )
    assert run(f"--out={broken}", "--resume")[0] == 0
    resumed = lines_of(broken)
    assert resumed[:3] == lines[:3]
    assert resumed[-1] == lines[-1], "the evaluation is not that of a run without a break"
    assert run(f"--out={broken}", "--resume")[0] == 0
    assert lines_of(broken) == resumed


def test_fields_are_set_on_the_command_line(config):
    rest, changes = split_arguments(
        ["train", "--config=x.py", "--config.seed=3", "--config.recipe.model.widths=(4, 4)", "--config.data.name=text"]
    )
    assert rest == ["train", "--config=x.py"]
    assert changes == {"seed": 3, "recipe": {"model": {"widths": (4, 4)}}, "data": {"name": "text"}}
    found = training_config(config, smoke=True, overrides=changes, steps=None)
    assert (found["steps"], found["seed"], found["data"]["name"]) == (2, 3, "text")
    assert found["recipe"] == {"name": "classifier", "model": {"name": "mlp", "widths": [4, 4]}}
    assert training_config(config, smoke=True, steps=5)["steps"] == 5
    for argument in ("--config.seed", "--config.=3", "--config.a..b=3"):
        with pytest.raises(ValueError, match="must be written --config"):
            split_arguments([argument])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.sed=1"], "--config: unknown field 'sed'; known: accumulate, batch_size"),
        (["--config.seed=a"], "field 'seed' must be a number such as 0, got 'a'"),
        (["--config.steps=1.5"], "field 'steps' must be a whole number, got 1.5"),
        (["--config.batch_size=0"], "field 'batch_size' must be at least 1, got 0"),
        (["--config.data=3"], "section 'data' has fields of its own, got 3"),
        (
            ["--config.data.name=cifar"],
            "config.data: name must be one of digits, fashion_mnist, text, tfds, got 'cifar'",
        ),
        (["--config.data.sed=1"], "config.data digits: unknown field 'sed'; known: seed, test_fraction"),
        (
            ["--config.data={'name': 'fashion_mnist', 'test_fraction': 0.1}"],
            "unknown field 'test_fraction'; known: folder",
        ),
        (
            ["--config.recipe.name=x"],
            "config.recipe: name must be one of classifier, language_model, masked_autoencoder, mmcr, self_distillation, "
            "got 'x'",
        ),
        (["--config.recipe.num_classes=3"], "config.recipe: num_classes is 3, the data have label 9"),
        (["--config.recipe.classes=3"], "config.recipe classifier: unknown field 'classes'"),
        (["--config.recipe.model.width=3"], "config.recipe.model mlp: unknown field 'width'; known: widths"),
        (
            ["--config.recipe={'name': 'language_model'}"],
            "language_model needs data with tokens; these have image, label",
        ),
        (["--config.recipe={'name': 'mmcr', 'views': 'x'}"], "views must be one of digits, cifar, imagenet, got 'x'"),
        (["--config.optimizer.name=adam"], "optimizer must be one of adamw, lion, sgd, lars, got 'adam'"),
        (["--config.precision=float16"], "compute must be one of float32, bfloat16, got 'float16'"),
        (["--config.mesh.data=4096"], "mesh {data: 4096} asks for 4096 devices, there are"),
        (
            ["--config.sharding.rules=('x',)"],
            "rules must be ('tensor_parallel',) or pairs (pattern, (axis or None, ...))",
        ),
        (["--config.sharding.rules=(('x', ('data',)),)"], "sharding rule 'x' decides on no parameter"),
        (
            ["--config.accumulate=5"],
            "batch of 32 rows is not divisible by accumulate times the places along 'data', 5 x",
        ),
        (["--config.save_every=0"], "save_every must be at least 1, got 0"),
        (["--steps=0"], "flag --steps=0"),
        (["--process_id=1"], "several processes need coordinator, num_processes, process_id; missing: coordinator"),
        (["--nonsense=1"], "Unknown command line flag 'nonsense'"),
        (["configs/train/lm_text.py"], "'configs/train/lm_text.py' is not a flag"),
        (["--config=/nowhere.py"], "--config=/nowhere.py: no such file"),
    ],
)
def test_bad_input_is_one_clear_line(run, tmp_path, flags, message):
    status, stdout, stderr = run(f"--out={tmp_path / 'out'}", *flags)
    assert (status, stdout) == (2, "")
    error = stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out" / "checkpoints" / "1").exists()


def test_unknown_fields_of_a_file_are_refused(run, config):
    config.write_text(CONFIG.replace('"steps": 8', '"step": 8'))
    assert f"error: --config={config}: unknown field 'step'; known: accumulate" in run()[2]
    config.write_text(CONFIG.replace('"smoke": {"steps": 2}', '"smoke": {"step": 2}'))
    assert "error: smoke: unknown field 'step'" in run("--smoke")[2]
    config.write_text("def get_config():\n    return {'steps': 3}\n")
    assert f"error: --config={config}: section 'data' is missing" in run()[2]


def test_help_and_nothing(capsys):
    assert run_command(["train", "--help"], "What it does.", Interrupts("")) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("What it does.")
    assert all(name in shown for name in define_flags() if name != "help")
    assert run_command(["train"], "", Interrupts("")) == 2
    assert "error: --config must be given" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(configs.train.__path__)))
def test_every_config_fits_together(name):
    module = __import__(f"configs.train.{name}", fromlist=["x"])
    for needed in ("Source:", f"--config=configs/train/{name}.py", "Expected figure:", "Time:", "core"):
        assert needed in (module.__doc__ or ""), f"configs/train/{name}.py does not say {needed!r}"
    for smoke in (False, True):
        config = training_config(Path(module.__file__), smoke=smoke)
        make_optimizer(config["optimizer"], config["steps"])
    source, test = make_sources(config["data"])
    assert len(test) > 0
    make_recipe(config["recipe"], batches(source, config["batch_size"], 0).at(0))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("classifier", "mlp"),
        ("classifier", "crate"),
        ("language_model", "transformer"),
        ("language_model", "crate"),
        ("masked_autoencoder", "crate"),
        ("mmcr", "conv"),
        ("self_distillation", "crate"),
    ],
)
def test_recipes_fit_their_data(name, model):
    data = (
        {"name": "text", "tokenizer": "bytes", "length": 8, "limit": 1000}
        if name == "language_model"
        else {"name": "digits"}
    )
    batch = batches(make_sources(data)[0], 4, 0).at(0)
    recipe = make_recipe({"name": name, "model": {"name": model}}, batch)
    variables = jax.eval_shape(recipe.init, jax.random.key(0), batch)
    params = variables.pop("params")
    loss, _ = jax.eval_shape(recipe.loss, params, variables, batch, jax.random.key(0))
    assert loss.shape == ()


def test_recipes_that_a_config_can_name():
    images, tokens = {"image": np.zeros((2, 8, 8, 1)), "label": np.zeros(2, int)}, {"tokens": np.zeros((2, 9), int)}
    with pytest.raises(ValueError, match="masked_autoencoder needs data with image; these have tokens"):
        make_recipe({"name": "masked_autoencoder", "model": {"name": "crate"}}, tokens)
    with pytest.raises(ValueError, match="self_distillation needs data with image, label"):
        make_recipe({"name": "self_distillation", "model": {"name": "crate"}}, tokens)
    with pytest.raises(ValueError, match="views must be one of digits, cifar, imagenet, got 'x'"):
        make_recipe({"name": "self_distillation", "views": "x", "model": {"name": "crate"}}, images)
    with pytest.raises(ValueError, match="patch_size"):
        make_recipe({"name": "masked_autoencoder", "model": {"name": "crate", "patch_size": 3}}, images)


def environment(tmp_path):
    return {**os.environ, "JAXDEC_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}


def command(*flags):
    return [sys.executable, "-W", "error", "-m", "experiments.train", *map(str, flags)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier_digits", "crate_mae_digits", "lm_text", "mmcr_digits"])
def test_smoke_runs_as_a_user_makes_them(tmp_path, name):
    line = command(f"--config=configs/train/{name}.py", "--smoke", f"--out={tmp_path / 'out'}")
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("curves.svg\n")
    assert done.stderr.startswith("training ...\n")


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_one_line(tmp_path):
    out = tmp_path / "out"
    line = command("--config=configs/train/classifier_digits.py", f"--out={out}", "--steps=1000000")
    with subprocess.Popen(
        line, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, stdout) == (130, "")
    (after,) = [line for line in stderr.splitlines() if line.startswith("Interrupted after update ")]
    step = int(after.split()[3])
    assert (out / "checkpoints" / str(step)).is_dir()
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    """Twenty updates, then ten more from the checkpoint; each process reads half of every batch."""
    config = ["--config=configs/train/classifier_digits.py", "--smoke", "--config.log_every=1",
              "--config.optimizer.schedule.name=constant", "--config.sharding.fully_sharded=True"]  # fmt: skip

    def train(out, processes):
        for steps in (20, 30):
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            lines = [command(*config, f"--out={out}", f"--steps={steps}", "--resume")]
            if processes > 1:
                joined = [f"--coordinator=localhost:{port}", f"--num_processes={processes}"]
                lines = [[*lines[0], *joined, f"--process_id={number}"] for number in range(processes)]
            running = [
                subprocess.Popen(
                    line, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
                for line in lines
            ]
            outputs = [process.communicate(timeout=240) for process in running]
            for process, (_, stderr) in zip(running, outputs):
                assert process.returncode == 0, stderr
            assert ["metrics.json" in stdout for stdout, _ in outputs] == [True] + [False] * (processes - 1)
        return lines_of(out)

    alone, together = train(tmp_path / "alone", 1), train(tmp_path / "together", 2)
    assert [(line["kind"], line["step"]) for line in together] == [(line["kind"], line["step"]) for line in alone]
    for one, other in zip(alone, together):
        assert one.pop("kind") == other.pop("kind")
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_processes_end_together_when_one_is_told_to(tmp_path):
    """SIGTERM to the second: both save after the same update."""
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    line = command("--config=configs/train/classifier_digits.py", "--smoke", f"--out={out}", "--steps=1000000",
                   f"--coordinator=localhost:{port}", "--num_processes=2")  # fmt: skip
    running = [
        subprocess.Popen(
            [*line, f"--process_id={number}"], env=environment(tmp_path), stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    try:
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
            assert [process.poll() for process in running] == [None, None]
            time.sleep(0.2)
        running[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [130, 130], errors
    steps = {line.split()[3] for error in errors for line in error.splitlines() if line.startswith("Interrupted after")}
    (step,) = steps
    assert (out / "checkpoints" / step).is_dir()
