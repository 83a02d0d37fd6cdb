"""What the tests of the generate launcher share: the command in this process, or in one of its own, on a tiny model."""

import json
import os
import subprocess
import sys

import jax
import pytest

import jaxdec
from experiments import generate
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.interrupts import Interrupts


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    """A random model that says letters, a token each; its context is long enough never to be used up by chance."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is compiling
    yield write_smoke_model(tmp_path_factory.mktemp("models") / "tiny.gguf", context=1 << 17)
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def run_generate(monkeypatch, capsys):
    """``run_generate(*flags)`` returns exit status, stdout and stderr of the command in this process."""
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None, raising=False)

    def run_generate(*flags, interrupts=None):
        status = generate.main(["generate", *map(str, flags)], interrupts or Interrupts("early"))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_generate


@pytest.fixture
def ask_generate(run_generate, tiny_gguf):
    """``ask_generate(*flags)`` returns the JSON object of a run on the tiny model."""

    def ask_generate(*flags):
        status, out, err = run_generate(f"--model={tiny_gguf}", "--max_new_tokens=6", "--json", *flags)
        assert status == 0, err
        assert out.count("\n") == 1  # nothing else is on stdout
        return json.loads(out)

    return ask_generate


@pytest.fixture(scope="module")
def generate_environment(tmp_path_factory):
    """For processes: an empty cache, and quick compiling."""
    cache = str(tmp_path_factory.mktemp("cache"))
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **quick, "JAXDEC_CACHE": cache}


@pytest.fixture
def start_generate(generate_environment):
    """``start_generate(*flags)`` starts the command in a process of its own, which does not outlive the test."""
    processes = []

    def start(*flags):
        line = [sys.executable, "-W", "error", "-m", "experiments.generate", *map(str, flags)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(line, env=generate_environment, **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
