"""Hugging Face directories: ``config.json``, one or several safetensors files, and a fast tokenizer."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import safetensors.numpy

from jaxdec.checkpoints.files import HF_CONFIG, replace_folder
from jaxdec.checkpoints.param_layout import assemble_params, params_to_hf_tensors
from jaxdec.checkpoints.safetensors_files import SINGLE, SafetensorsFiles
from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json
from jaxdec.models.config import ARCHITECTURES, DecoderConfig, RopeScaling
from jaxdec.tokenizers import Tokenizer, tokenizer_from_folder
from jaxdec.typing import PyTree

MODEL_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
QWEN3_HEAD_DIM = 128  # transformers' default; the other families divide hidden_size by the heads


def read_hf_directory(folder: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read a model from a Hugging Face directory.

    Raises:
      CheckpointError: pickled weights, a missing or unreadable file, an unsupported architecture or rope scaling, or
        tensors that do not fit ``config.json``.
    """
    settings = read_json(folder / HF_CONFIG)
    generation = folder / "generation_config.json"
    ends = _token_ids(settings) + (_token_ids(read_json(generation)) if generation.exists() else ())
    try:
        config = config_from_hf(settings)
        tensors = SafetensorsFiles(folder, config.tie_embeddings)
        tokenizer = tokenizer_from_folder(folder, ends)
        return config, assemble_params(config, tensors, dtype), tokenizer
    except ValueError as error:  # CheckpointError, and what DecoderConfig refuses
        raise CheckpointError(f"{folder}: {error}") from None


def _token_ids(settings: dict[str, Any]) -> tuple[int, ...]:
    ids = settings.get("eos_token_id")
    return tuple(token for token in (ids if isinstance(ids, list) else [ids]) if isinstance(token, int))


def config_from_hf(settings: dict[str, Any]) -> DecoderConfig:
    """Translate ``config.json`` (both the older and the transformers-5 spelling of rotary settings).

    Raises:
      CheckpointError: an unsupported architecture or feature, or a key that is missing or malformed.
      ValueError: sizes that no model has.
    """
    architecture = settings.get("model_type")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"model_type {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    _refuse_unsupported(settings)

    def get(key: str, kind: type, default: Any = None) -> Any:
        return _need(settings, key, kind, default)

    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"rope_scaling must be an object, got {rope!r}")
    heads, width, bias = get("num_attention_heads", int), get("hidden_size", int), get("attention_bias", bool, False)
    return DecoderConfig(
        architecture=architecture,
        vocab_size=get("vocab_size", int),
        hidden_size=width,
        intermediate_size=get("intermediate_size", int),
        num_layers=get("num_hidden_layers", int),
        num_heads=heads,
        num_kv_heads=get("num_key_value_heads", int, heads),
        head_dim=get("head_dim", int, QWEN3_HEAD_DIM if architecture == "qwen3" else width // max(heads, 1)),
        max_position_embeddings=get("max_position_embeddings", int),
        rms_norm_eps=get("rms_norm_eps", float, 1e-6),
        rope_theta=_need(rope, "rope_theta", float, get("rope_theta", float, 10000.0)),
        rope_scaling=_rope_scaling(rope),
        tie_embeddings=get("tie_word_embeddings", bool, False),
        attention_bias=bias or architecture == "qwen2",
        output_bias=bias and architecture != "qwen2",
        mlp_bias=get("mlp_bias", bool, False) and architecture == "llama",
        qk_norm=architecture == "qwen3",
    )


def _refuse_unsupported(settings: dict[str, Any]) -> None:
    """Refuse what would change the model's output and is not implemented."""
    if settings.get("use_sliding_window"):
        raise CheckpointError("config.json sets use_sliding_window, which is not supported")
    if any(kind != "full_attention" for kind in settings.get("layer_types") or ()):
        raise CheckpointError("config.json lists layer_types other than 'full_attention', which are not supported")
    if settings.get("quantization_config"):
        raise CheckpointError("config.json has a quantization_config: quantised safetensors are not supported, GGUF is")
    if (activation := settings.get("hidden_act", "silu")) != "silu":
        raise CheckpointError(f"hidden_act {activation!r} is not supported; supported: silu")


def _need(settings: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Value of ``key``, or ``default`` where it is absent or null; an error names a key that is missing or of another type."""
    value = settings.get(key)
    value = default if value is None else value
    if value is None:
        raise CheckpointError(f"config.json lacks {key!r}")
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
        raise CheckpointError(f"{key} in config.json must be of type {kind.__name__}, got {value!r}")
    return kind(value)


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError("config.json sets partial_rotary_factor, which is not supported")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", _need(rope, "factor", float))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            _need(rope, "factor", float),
            _need(rope, "low_freq_factor", float),
            _need(rope, "high_freq_factor", float),
            _need(rope, "original_max_position_embeddings", int),
        )
    raise CheckpointError(f"rope scaling {kind!r} is not supported; supported: default, linear, llama3")


def save_hf_directory(
    folder: Path, config: DecoderConfig, params: PyTree, tokenizer: Tokenizer, *, overwrite: bool = False
) -> None:
    """Write a directory that transformers and :func:`read_hf_directory` read; it appears whole or not at all.

    Raises:
      FileExistsError: ``folder`` exists and ``overwrite`` is False, or it is not a checkpoint.
      ValueError: a config that Hugging Face's classes cannot express, such as biases in the output projection alone.
    """
    settings = config_to_hf(config, tokenizer)
    with replace_folder(folder, overwrite=overwrite) as target:
        config_file, weights = target / HF_CONFIG, target / SINGLE
        config_file.write_text(json.dumps(settings, indent=2))
        safetensors.numpy.save_file(params_to_hf_tensors(config, params), weights, metadata={"format": "pt"})
        weights.chmod(config_file.stat().st_mode)  # the library writes files that only their owner reads
        tokenizer.save(target)


def config_to_hf(config: DecoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The converse of :func:`config_from_hf`.

    Raises:
      ValueError: a config that Hugging Face's classes cannot express.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            rope |= {name: getattr(scaling, name) for name in names}
    settings: dict[str, Any] = {
        "architectures": [MODEL_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias and config.architecture != "qwen2",
        "mlp_bias": config.mlp_bias,
        "bos_token_id": tokenizer.backend.token_to_id(tokenizer.bos_token) if tokenizer.bos_token else None,
        "eos_token_id": list(tokenizer.eos_token_ids),
    }
    if config.rope_scaling is not None:
        settings["rope_scaling"] = rope  # where transformers 4 looks for it
    if (back := config_from_hf(settings)) != config:
        lost = next(f.name for f in dataclasses.fields(config) if getattr(back, f.name) != getattr(config, f.name))
        raise ValueError(
            f"{lost}={getattr(config, lost)!r} of a {config.architecture} model cannot be written as a Hugging Face directory; "
            "an Orbax directory holds any config"
        )
    return settings
