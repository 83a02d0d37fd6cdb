"""``jaxdec.load``: from a path to a model that decodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdec
from jaxdec.checkpoints import CheckpointError
from jaxdec.checkpoints.hf_directory import read_hf_directory, save_hf_directory
from jaxdec.checkpoints.orbax import save_orbax
from tests.checkpoints.models_on_disk import SMALL, gguf_tensors, hf_tensors, write_gguf, write_hf
from tests.reference import full_logits


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """One model in the three formats."""
    folder = tmp_path_factory.mktemp("formats")
    tensors = hf_tensors(SMALL)
    write_gguf(folder / "m.gguf", SMALL, gguf_tensors(SMALL, tensors))
    write_hf(folder / "hf", SMALL, tensors)
    config, params, tokenizer = read_hf_directory(folder / "hf")
    save_orbax(folder / "orbax", config, params, tokenizer)
    return folder


def test_the_three_formats_hold_the_same_model(formats):
    text = list(range(40))
    models = {name: jaxdec.load(formats / name) for name in ("m.gguf", "hf", "orbax")}
    logits = {name: full_logits(lm.model, text) for name, lm in models.items()}
    np.testing.assert_array_equal(logits["hf"], logits["m.gguf"])
    np.testing.assert_array_equal(logits["orbax"], logits["m.gguf"])
    assert np.isfinite(logits["hf"]).all()
    for lm in models.values():
        assert lm.model.module.config == SMALL
        assert lm.tokenizer.encode("hé") == models["hf"].tokenizer.encode("hé")
    assert models["hf"].name == str(formats / "hf")


@pytest.mark.parametrize("name", ["m.gguf", "hf", "orbax"])
def test_types(formats, name):
    lm = jaxdec.load(str(formats / name), dtype="bfloat16", row_tile=4)
    assert lm.model.params["embed"]["embedding"].dtype == jnp.bfloat16
    assert lm.model.params["final_norm"]["scale"].dtype == jnp.float32
    assert lm.model.module.dtype == jnp.bfloat16
    assert lm.model.module.row_tile == 4
    with jax.enable_x64(True):
        wide = jaxdec.load(formats / name, dtype="float64")
        assert {leaf.dtype for leaf in jax.tree.leaves(wide.model.params)} == {jnp.dtype("float64")}
        np.testing.assert_array_equal(
            np.asarray(wide.model.params["embed"]["embedding"]),
            hf_tensors(SMALL)["model.embed_tokens.weight"].astype(float),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype must be one of float32, bfloat16, float64, int8, got 'int4'"),
        ({"dtype": "float64"}, "dtype 'float64' needs"),
        ({"row_tile": 0}, "row_tile must be at least 1, got 0"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(options, message, tmp_path):
    broken = tmp_path / "m.gguf"
    broken.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=message):
        jaxdec.load(broken, **options)
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        jaxdec.load(broken)


def test_loaded_parameters_outlive_the_file(formats, tmp_path):
    """They are copies: a file that is overwritten later must not change a model in memory."""
    config, params, tokenizer = read_hf_directory(formats / "hf")
    copy = tmp_path / "copy"
    save_hf_directory(copy, config, params, tokenizer)
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes((formats / "m.gguf").read_bytes())
    for path, weights in [(copy, copy / "model.safetensors"), (gguf, gguf)]:
        lm = jaxdec.load(path)
        size = weights.stat().st_size
        with open(weights, "r+b") as file:
            file.write(b"\xff" * size)
        for leaf, kept in zip(jax.tree.leaves(lm.model.params), jax.tree.leaves(params)):
            np.testing.assert_array_equal(leaf, kept)


def test_a_config_is_hashable_and_frozen():
    """It is static under ``jit``."""
    assert hash(SMALL) == hash(dataclasses.replace(SMALL))
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.vocab_size = 1
