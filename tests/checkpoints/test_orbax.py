"""Orbax directories: what we write is what we read, or an error says why not."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxdec.checkpoints import CheckpointError, load_checkpoint
from jaxdec.checkpoints.orbax import read_orbax, save_orbax
from tests.checkpoints.models_on_disk import SMALL, VARIANTS, assert_params, expected_params, hf_tensors
from tests.tiny_text import byte_tokenizer


def params_of(config, dtype=jnp.float32):
    """A parameter tree made without any reader."""
    tree = {}
    for path, value in expected_params(config, hf_tensors(config)).items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(value, jnp.promote_types(dtype, jnp.float32) if path[-1] == "scale" else dtype)
    return tree


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbax") / "m"
    save_orbax(folder, SMALL, params_of(SMALL), byte_tokenizer())
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("name", ["llama3", "llama_biases", "qwen3"])
def test_round_trip_bit_by_bit(name, tmp_path):
    config = VARIANTS[name]
    save_orbax(tmp_path / "m", config, params_of(config), byte_tokenizer())
    found, params, tokenizer = read_orbax(tmp_path / "m")
    assert found == config
    assert_params(params, expected_params(config, hf_tensors(config)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    assert tokenizer.eos_token_ids == (257,)
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_configs_without_words_at_hugging_face_are_kept(tmp_path):
    config = dataclasses.replace(SMALL, output_bias=True)
    save_orbax(tmp_path / "m", config, params_of(config), byte_tokenizer())
    assert load_checkpoint(tmp_path / "m").config == config


def test_weights_are_rounded_to_the_type_asked_for(saved):
    assert_params(read_orbax(saved, jnp.bfloat16)[1], expected_params(SMALL, hf_tensors(SMALL)), jnp.bfloat16)


def test_narrow_weights_are_widened_exactly(tmp_path):
    save_orbax(tmp_path / "m", SMALL, params_of(SMALL, jnp.bfloat16), byte_tokenizer())
    wide = expected_params(SMALL, {k: v.astype(jnp.bfloat16).astype(np.float32) if v.ndim == 2 else v
                                   for k, v in hf_tensors(SMALL).items()})  # fmt: skip
    assert_params(read_orbax(tmp_path / "m", jnp.float32)[1], wide)


def damaged_files(folder):
    return sorted(path.relative_to(folder) for path in (folder / "params").rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["removed", "cut", "flipped"])
def test_damage_to_any_file_of_the_weights_is_noticed_and_named(damage, copy):
    files = damaged_files(copy)
    assert len(files) > 5
    for name in files:
        path = copy / name
        content = path.read_bytes()
        if damage == "removed":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[:-1])
        else:
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(copy)
        assert str(path) in str(error.value)
        path.write_bytes(content)
    assert load_checkpoint(copy).config == SMALL


def test_folders_without_checksums_are_read_with_what_care_orbax_takes(copy, monkeypatch):
    """Other programs write Orbax folders too."""
    (copy / "checksums.json").unlink()
    assert_params(load_checkpoint(copy).params, expected_params(SMALL, hf_tensors(SMALL)))

    def fail(*args, **kwargs):
        raise Exception("Encountered error while reading array index: 0\nand a page of details")

    with monkeypatch.context() as patch:  # what Orbax does when a file of weights is missing, without its dying threads
        patch.setattr(ocp.StandardCheckpointer, "restore", fail)
        with pytest.raises(CheckpointError, match=r"params is cut short or corrupt: Encountered .* index: 0$"):
            load_checkpoint(copy)
    (copy / "params" / "_METADATA").write_text("{")
    with pytest.raises(CheckpointError, match="params is missing, cut short or corrupt"):
        load_checkpoint(copy)
    shutil.rmtree(copy / "params")
    with pytest.raises(CheckpointError, match="cut short or corrupt"):
        load_checkpoint(copy)


def test_checksums_that_cannot_be_read(copy):
    (copy / "checksums.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"checksums\.json must hold a JSON object"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "array layer_2/attention/output/weight is missing"),
        ({"num_layers": 1}, "array layer_1/attention/output/weight has no place in the config"),
        ({"intermediate_size": 97}, "array layer_0/mlp/down/weight has shape (64, 96), the config asks for (64, 97)"),
        ({"tie_embeddings": False}, "array head/weight is missing"),
        ({"num_heads": 3}, "num_heads (3) must be a multiple of num_kv_heads (2)"),
        ({"architecture": "mamba"}, "architecture must be one of llama, qwen2, qwen3, got 'mamba'"),
        ({"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
        ({"vocab_size": None}, "jaxdec_config.json"),
        ({"vocab_size": "many"}, "jaxdec_config.json"),
        ({"rope_scaling": {"kind": "yarn", "factor": 2.0}}, "must be 'linear' or 'llama3', got 'yarn'"),
        ({"rope_scaling": [1]}, "jaxdec_config.json"),
    ],
)
def test_configs_that_do_not_fit(changes, message, copy):
    path = copy / "jaxdec_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(copy)
    assert message in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("jaxdec_config.json", "{", "jaxdec_config.json is not valid JSON"),
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", "nonsense", "tokenizer_config.json is not valid JSON"),
    ],
)
def test_broken_json_is_named(file, content, message, copy):
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(copy)
    assert message in str(error.value)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["weights", "tokenizer"])
def test_saving_is_all_or_nothing(stage, copy, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    if stage == "weights":
        monkeypatch.setattr(ocp.StandardCheckpointer, "save", fail)
    else:
        monkeypatch.setattr("jaxdec.tokenizers.Tokenizer.save", fail)
    before = contents(copy)
    with pytest.raises(RuntimeError, match="disk full"):
        save_orbax(copy.parent / "new", SMALL, params_of(SMALL), byte_tokenizer())
    with pytest.raises(RuntimeError, match="disk full"):
        save_orbax(copy, SMALL, params_of(SMALL), byte_tokenizer(), overwrite=True)
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_overwriting(copy):
    with pytest.raises(FileExistsError, match="exists; give overwrite=True to replace it"):
        save_orbax(copy, SMALL, params_of(SMALL), byte_tokenizer())
    bigger = dataclasses.replace(SMALL, num_layers=3)
    save_orbax(copy, bigger, params_of(bigger), byte_tokenizer(), overwrite=True)
    assert load_checkpoint(copy).config == bigger
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
