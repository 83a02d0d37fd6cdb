"""The conversion launcher: one process as a user runs it, the rest in this one."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.convert import main
from experiments.interrupts import Interrupts
from jaxdec.checkpoints import load_checkpoint
from tests.checkpoints.models_on_disk import (
    VARIANTS,
    assert_params,
    expected_params,
    gguf_tensors,
    hf_tensors,
    write_gguf,
)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    config = VARIANTS["llama3"]
    return write_gguf(tmp_path_factory.mktemp("models") / "m.gguf", config, gguf_tensors(config, hf_tensors(config)))


def run(*flags):
    return main(["convert", *map(str, flags)], Interrupts(when_nothing_is_lost=""))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("first", ["safetensors", "orbax"])
def test_there_and_on_to_the_other_format(name, first, tmp_path):
    config, tensors = VARIANTS[name], hf_tensors(VARIANTS[name])
    path = write_gguf(tmp_path / "m.gguf", config, gguf_tensors(config, tensors))
    second = {"safetensors": "orbax", "orbax": "safetensors"}[first]
    assert run(f"--model={path}", f"--out={tmp_path / 'first'}", f"--format={first}") == 0
    assert run(f"--model={tmp_path / 'first'}", f"--out={tmp_path / 'second'}", f"--format={second}") == 0
    for folder in ("first", "second"):
        found = load_checkpoint(tmp_path / folder)
        assert found.config == config
        assert_params(found.params, expected_params(config, tensors))
        assert found.tokenizer.eos_token_ids == (257,)


def test_weights_may_be_rounded(gguf_file, tmp_path):
    assert run(f"--model={gguf_file}", f"--out={tmp_path / 'm'}", "--format=safetensors", "--dtype=bfloat16") == 0
    narrow = load_checkpoint(tmp_path / "m", jnp.bfloat16)
    whole = load_checkpoint(gguf_file, jnp.bfloat16)
    for ours, theirs in zip(jax.tree.leaves(narrow.params), jax.tree.leaves(whole.params)):
        np.testing.assert_array_equal(ours, theirs)
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 0.6 * gguf_file.stat().st_size


def test_overwriting(gguf_file, tmp_path, capsys):
    out = tmp_path / "m"
    flags = (f"--model={gguf_file}", f"--out={out}", "--format=safetensors")
    assert run(*flags) == 0
    (out / "note").write_text("mine")
    assert run(*flags) == 2
    assert f"error: --out={out}: {out} exists; give --overwrite to replace it" in capsys.readouterr().err
    assert (out / "note").exists()
    assert run(*flags, "--overwrite") == 0
    assert not (out / "note").exists()
    (out / "config.json").unlink()
    assert run(*flags, "--overwrite") == 2
    assert "is not replaced, even with --overwrite" in capsys.readouterr().err


BAD = [
    ([], "--model is missing: give --model, --out and --format"),
    (["--model=m"], "--out is missing"),
    (["--model=m", "--out=OUT"], "--format is missing"),
    (["--model=m", "--out=OUT", "--format=gguf"], "--format must be one of safetensors, orbax, got 'gguf'"),
    (
        ["--model=m", "--out=OUT", "--format=orbax", "--dtype=int8"],
        "--dtype must be one of float32, bfloat16, got 'int8'",
    ),
    (["--model=nonsense", "--out=OUT", "--format=orbax"], "Known names: smollm2-135m-instruct"),
    (["--model=/nowhere/m.gguf", "--out=OUT", "--format=orbax"], "no file or folder there"),
    (["--model=m", "--nonsense=1"], "Unknown command line flag 'nonsense'"),
    (["convert"], "'convert' is not a flag; flags are written --name=value"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_clear_line(flags, message, capsys, tmp_path):
    assert run(*(flag.replace("OUT", str(tmp_path / "out")) for flag in flags)) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("error:") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_is_one_line(gguf_file, tmp_path, capsys):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_file.read_bytes()[:-1000])
    assert run(f"--model={cut}", f"--out={tmp_path / 'out'}", "--format=orbax") == 2
    assert f"error: {cut}: cut short: tensor" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupting_leaves_nothing(gguf_file, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdec.tokenizers.Tokenizer.save", interrupted)
    assert run(f"--model={gguf_file}", f"--out={tmp_path / 'out'}", "--format=safetensors") == 130
    assert "Interrupted: nothing was written." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help(capsys):
    assert run("--help") == 0
    assert "--overwrite" in capsys.readouterr().out.replace("[no]", "")


def test_as_a_user_runs_it(gguf_file, tmp_path):
    out = tmp_path / "m"
    command = [sys.executable, "-W", "error", "-m", "experiments.convert", f"--model={gguf_file}", f"--out={out}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, "--format=orbax"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"{out}: 0.4 MB, float32, orbax")
    assert load_checkpoint(out).config == VARIANTS["llama3"]
