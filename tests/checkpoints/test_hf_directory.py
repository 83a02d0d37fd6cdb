"""Hugging Face directories written by hand, read by us, written by us and read again."""

import dataclasses
import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxdec.checkpoints import CheckpointError, load_checkpoint
from jaxdec.checkpoints.hf_directory import config_to_hf, read_hf_directory, save_hf_directory
from jaxdec.models.config import RopeScaling
from tests.checkpoints.models_on_disk import SMALL, VARIANTS, assert_params, expected_params, hf_tensors, write_hf
from tests.tiny_text import byte_tokenizer

EXPRESSIBLE = {name: dataclasses.replace(config, max_position_embeddings=256) for name, config in VARIANTS.items()}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_config_and_weights_of_every_variant(name, shards, tmp_path):
    config, tensors = EXPRESSIBLE[name], hf_tensors(EXPRESSIBLE[name])
    found, params, tokenizer = read_hf_directory(write_hf(tmp_path / "m", config, tensors, shards=shards))
    assert found == config
    assert_params(params, expected_params(config, tensors))
    assert tokenizer.eos_token_ids == (257,)
    assert tokenizer.chat_template == byte_tokenizer().chat_template


@pytest.mark.parametrize("stored", [np.float16, jnp.bfloat16, np.float64])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_stored_types_become_the_type_asked_for(stored, dtype, tmp_path):
    tensors = {name: tensor.astype(stored) for name, tensor in hf_tensors(SMALL).items()}
    _, params, _ = read_hf_directory(write_hf(tmp_path / "m", SMALL, tensors), dtype)
    assert_params(params, expected_params(SMALL, tensors), dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_what_we_write_reads_back_bit_by_bit(name, dtype, tmp_path):
    config, tensors = EXPRESSIBLE[name], hf_tensors(EXPRESSIBLE[name])
    _, params, tokenizer = read_hf_directory(write_hf(tmp_path / "theirs", config, tensors), dtype)
    save_hf_directory(tmp_path / "ours", config, params, tokenizer)
    found, again, tokenizer_again = read_hf_directory(tmp_path / "ours", dtype)
    assert found == config
    assert_params(again, expected_params(config, tensors), dtype)
    assert tokenizer_again.eos_token_ids == tokenizer.eos_token_ids
    assert tokenizer_again.encode("hé <|im_end|>") == tokenizer.encode("hé <|im_end|>")


def test_all_files_we_write_are_as_readable_as_the_others(tmp_path):
    _, params, tokenizer = read_hf_directory(write_hf(tmp_path / "theirs", SMALL, hf_tensors(SMALL)))
    save_hf_directory(tmp_path / "ours", SMALL, params, tokenizer)
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in (tmp_path / "ours").iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_the_newer_spelling_of_rope_settings(tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    settings = {"rope_theta": None, "rope_scaling": None, "rope_parameters": rope}
    config = read_hf_directory(write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL), settings=settings))[0]
    assert config == dataclasses.replace(SMALL, rope_theta=5e5, rope_scaling=RopeScaling("linear", 2.0))


def test_defaults_are_those_of_transformers(tmp_path):
    absent = dict.fromkeys(
        [
            "rope_theta",
            "num_key_value_heads",
            "tie_word_embeddings",
            "attention_bias",
            "mlp_bias",
            "rms_norm_eps",
            "hidden_act",
        ]
    )
    plain = dataclasses.replace(SMALL, num_kv_heads=4, tie_embeddings=False, rms_norm_eps=1e-6)
    config = read_hf_directory(write_hf(tmp_path / "llama", plain, hf_tensors(plain), settings=absent))[0]
    assert config == plain
    wide = dataclasses.replace(VARIANTS["qwen3"], head_dim=128)
    config = read_hf_directory(write_hf(tmp_path / "qwen3", wide, hf_tensors(wide), settings={"head_dim": None}))[0]
    assert config.head_dim == 128


def test_end_tokens_of_config_and_generation_config_are_united(tmp_path):
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL), settings={"eos_token_id": 5})
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 257]}')
    assert read_hf_directory(folder)[2].eos_token_ids == (5, 7, 257)


def test_a_head_stored_although_tied(tmp_path):
    tensors = hf_tensors(SMALL)
    folder = write_hf(tmp_path / "m", SMALL, tensors | {HEAD: tensors[EMBEDDING].copy()})
    config, params, _ = read_hf_directory(folder)
    assert config.tie_embeddings
    assert "head" not in params
    write_hf(folder, SMALL, tensors | {HEAD: tensors[EMBEDDING] + 1})
    with pytest.raises(CheckpointError, match=r"sets tie_word_embeddings, and the stored lm_head\.weight differs"):
        read_hf_directory(folder)
    write_hf(folder, SMALL, tensors | {HEAD: tensors[EMBEDDING] + 1}, settings={"tie_word_embeddings": False})
    np.testing.assert_array_equal(read_hf_directory(folder)[1]["head"]["weight"], tensors[EMBEDDING] + 1)


def test_frequencies_stored_by_old_converters_are_ignored(tmp_path):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    assert read_hf_directory(write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL) | extra))[0] == SMALL


BAD_SETTINGS = {
    "model type": ({"model_type": "gemma"}, "model_type 'gemma' is not supported; supported: llama, qwen2, qwen3"),
    "rope type": ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn' is not supported"),
    "rope without factor": ({"rope_scaling": {"rope_type": "linear"}}, "config.json lacks 'factor'"),
    "llama3 without factors": ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "config.json lacks 'low_freq_factor'"),
    "rope that is no object": ({"rope_scaling": "linear"}, "rope_scaling must be an object, got 'linear'"),
    "negative factor": ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor of rope scaling must be positive"),
    "partial rotation": ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    "sliding window": ({"use_sliding_window": True}, "sets use_sliding_window, which is not supported"),
    "layer types": ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types other than 'full_attention'"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantised safetensors are not supported, GGUF is"),
    "missing key": ({"num_hidden_layers": None}, "config.json lacks 'num_hidden_layers'"),
    "text for a number": ({"hidden_size": "64"}, "hidden_size in config.json must be of type int, got '64'"),
    "number for a switch": ({"tie_word_embeddings": 1}, "tie_word_embeddings in config.json must be of type bool, got 1"),
    "switch for a number": ({"vocab_size": True}, "vocab_size in config.json must be of type int, got True"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "must be a multiple of num_kv_heads"),
    "no heads": ({"num_attention_heads": 0, "head_dim": None}, "num_heads must be at least 1"),
    "epsilon": ({"rms_norm_eps": -1e-5}, "rms_norm_eps must be positive and finite, got -1e-05"),
    "more layers than stored": ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
    "fewer layers than stored": ({"num_hidden_layers": 1}, "tensor model.layers.1.input_layernorm.weight (and 8 others)"),
    "another width": ({"intermediate_size": 97}, "gate_proj.weight has shape (96, 64), the config asks for (97, 64)"),
    "untied without a head": ({"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
    "biases asked for": ({"attention_bias": True}, "tensor model.layers.0.self_attn.q_proj.bias is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_what_is_wrong_in_the_config_is_named(name, tmp_path):
    settings, message = BAD_SETTINGS[name]
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL), settings=settings)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


BAD_TENSORS = {
    "wrong shape": ({"model.norm.weight": np.ones(63, np.float32)}, "has shape (63,), the config asks for (64,)"),
    "transposed": ({"model.layers.0.mlp.up_proj.weight": np.ones((64, 96), np.float32)}, "the config asks for (96, 64)"),
    "a bias without a place": ({"model.layers.1.mlp.up_proj.bias": np.ones(96, np.float32)}, "up_proj.bias has no place"),
    "integers": ({EMBEDDING: np.ones((258, 64), np.int8)}, "is stored as I8; supported: F64, F32, F16, BF16"),
    "NaN": ({EMBEDDING: np.full((258, 64), np.nan, np.float32)}, f"tensor {EMBEDDING} holds values that are not finite"),
    "bfloat16 infinity": ({EMBEDDING: np.full((258, 64), -np.inf, jnp.bfloat16)}, "holds values that are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_what_is_wrong_in_the_tensors_is_named(name, tmp_path):
    tensors, message = BAD_TENSORS[name]
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL) | tensors)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


def test_cut_weights_are_refused_wherever_they_are_cut(tmp_path):
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL))
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for cut in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"m: model\.safetensors is cut short or corrupt"):
            load_checkpoint(folder)


def test_shards(tmp_path):
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL), shards=2)
    index = folder / "model.safetensors.index.json"
    second = folder / "model-00002-of-00002.safetensors"
    kept, listed = second.read_bytes(), json.loads(index.read_text())
    second.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is cut short or corrupt"):
        load_checkpoint(folder)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is listed in .* and missing"):
        load_checkpoint(folder)
    second.write_bytes(kept)
    first_alone = {key: name for key, name in listed["weight_map"].items() if name != second.name}
    for content, message in [
        ({"weight_map": first_alone}, "tensor .* is missing"),
        ({"weight_map": {"a": "../other/model.safetensors"}}, "not the name of a file beside it"),
        ({"weight_map": []}, "has no weight_map"),
        ({}, "has no weight_map"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"index\.json is not valid JSON"):
        load_checkpoint(folder)


def test_pickles_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no"):
        load_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r"weights are pickled \(pytorch_model\.bin\)"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="is a pickle"):
        load_checkpoint(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[1]", "must hold a JSON object, and holds a list"),
        ("config.json", "{", "is not valid JSON"),
        ("config.json", b"\xff\xfe", "is not valid JSON"),
        ("generation_config.json", "{", "generation_config.json is not valid JSON"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", None, "has no tokenizer.json"),
    ],
)
def test_broken_json_is_named(file, content, message, tmp_path):
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL))
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    assert message in str(error.value)
    assert str(folder) in str(error.value)


def test_paths_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"neither config\.json .* nor jaxdec_config\.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"for the GGUF file in it, give .*a\.gguf"):
        load_checkpoint(tmp_path)
    folder = write_hf(tmp_path / "m", SMALL, hf_tensors(SMALL))
    with pytest.raises(CheckpointError, match="is a weights file alone: give its folder"):
        load_checkpoint(folder / "model.safetensors")


def saved_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    config, tensors = SMALL, hf_tensors(SMALL)
    _, params, tokenizer = read_hf_directory(write_hf(tmp_path / "theirs", config, tensors))
    parent = tmp_path / "saved"
    folder = parent / "m"

    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", fail)
        with pytest.raises(RuntimeError, match="disk full"):
            save_hf_directory(folder, config, params, tokenizer)
    assert saved_names(parent) == []
    save_hf_directory(folder, config, params, tokenizer)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="exists; give overwrite=True"):
        save_hf_directory(folder, config, params, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(type(tokenizer), "save", fail)  # the last file
        with pytest.raises(RuntimeError, match="disk full"):
            save_hf_directory(folder, config, params, tokenizer, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    doubled = {"embed": {"embedding": params["embed"]["embedding"] * 2}}
    save_hf_directory(folder, config, params | doubled, tokenizer, overwrite=True)
    np.testing.assert_array_equal(read_hf_directory(folder)[1]["embed"]["embedding"], tensors[EMBEDDING] * 2)
    assert saved_names(parent) == ["m"]


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "llama", "attention_bias": True},
        {"architecture": "llama", "qk_norm": True},
        {"architecture": "qwen2"},
        {"architecture": "qwen2", "attention_bias": True, "mlp_bias": True},
        {"architecture": "qwen3"},
    ],
)
def test_configs_that_transformers_has_no_words_for(changes, tmp_path):
    config = dataclasses.replace(SMALL, **changes)
    with pytest.raises(ValueError, match="cannot be written as a Hugging Face directory"):
        config_to_hf(config, byte_tokenizer())
