"""Hugging Face directories: ``config.json``, one or several safetensors files, and a fast tokenizer."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxdec.checkpoints.files import replace_folder
from jaxdec.checkpoints.param_layout import assemble_params, params_to_hf_tensors
from jaxdec.errors import CheckpointError
from jaxdec.models.config import ARCHITECTURES, DecoderConfig, RopeScaling
from jaxdec.tokenizers import Tokenizer, tokenizer_from_folder
from jaxdec.typing import PyTree

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MODEL_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def read_hf_directory(folder: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read a model from a Hugging Face directory.

    Raises:
      CheckpointError: pickled weights, a missing or unreadable file, an unsupported architecture or rope scaling, or
        tensors that do not fit ``config.json``.
    """
    settings = read_json(folder / "config.json")
    try:
        config = config_from_hf(settings)
        params = assemble_params(config, _TensorSource(folder), dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    generation = folder / "generation_config.json"
    ends = [settings.get("eos_token_id"), read_json(generation).get("eos_token_id") if generation.exists() else None]
    flat = [token for entry in ends for token in (entry if isinstance(entry, list) else [entry]) if token is not None]
    return config, params, tokenizer_from_folder(folder, tuple(flat))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a :class:`CheckpointError` names the file if that fails."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None


def config_from_hf(settings: dict[str, Any]) -> DecoderConfig:
    """Translate ``config.json`` (both the older and the transformers-5 spelling of rotary settings)."""
    architecture = settings.get("model_type")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"model_type {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    required = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    if missing := [key for key in required if key not in settings]:
        raise CheckpointError(f"config.json lacks {missing[0]!r}")
    if settings.get("use_sliding_window"):
        raise CheckpointError("config.json sets use_sliding_window, which is not supported")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    heads = settings["num_attention_heads"]
    bias = settings.get("attention_bias", False)
    return DecoderConfig(
        architecture=architecture,
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_layers=settings["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=settings.get("num_key_value_heads") or heads,
        head_dim=settings.get("head_dim") or settings["hidden_size"] // heads,
        max_position_embeddings=settings.get("max_position_embeddings", 2048),
        rms_norm_eps=settings.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or settings.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(rope),
        tie_embeddings=settings.get("tie_word_embeddings", False),
        attention_bias=bias or architecture == "qwen2",
        output_bias=bias and architecture != "qwen2",
        mlp_bias=settings.get("mlp_bias", False),
        qk_norm=architecture == "qwen3",
    )


def _rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    raise CheckpointError(f"rope scaling {kind!r} is not supported; supported: default, linear, llama3")


class _TensorSource:
    """Tensors by name from memory-mapped safetensors files."""

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        if index.exists():
            files = sorted(set(read_json(index).get("weight_map", {}).values()))
        else:
            files = ["model.safetensors"] if (folder / "model.safetensors").exists() else []
        if not files:
            pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
            if pickles:
                raise CheckpointError(
                    f"weights are pickled ({pickles[0]}): reading a pickle runs the code in it. Convert them to safetensors"
                )
            raise CheckpointError("no model.safetensors and no model.safetensors.index.json")
        self._home = {}
        for name in files:
            if not (folder / name).exists():
                raise CheckpointError(f"{name} is listed in model.safetensors.index.json and missing")
            try:
                file = safetensors.safe_open(folder / name, framework="flax")
            except (safetensors.SafetensorError, OSError) as error:
                raise CheckpointError(f"{name} is cut short or corrupt: {error}") from None
            for key in file.keys():  # noqa: SIM118 - not a dict
                self._home[key] = file

    def __call__(self, name: str) -> np.ndarray:
        return np.asarray(self._home[name].get_tensor(name))


def save_hf_directory(
    folder: Path, config: DecoderConfig, params: PyTree, tokenizer: Tokenizer, *, overwrite: bool = False
) -> None:
    """Write a directory that transformers and :func:`read_hf_directory` read.

    Raises:
      FileExistsError: ``folder`` exists and ``overwrite`` is False.
    """
    with replace_folder(folder, overwrite=overwrite) as target:
        safetensors.numpy.save_file(
            params_to_hf_tensors(config, params), target / "model.safetensors", metadata={"format": "pt"}
        )
        (target / "config.json").write_text(json.dumps(config_to_hf(config, tokenizer), indent=2))
        tokenizer.save(target)


def config_to_hf(config: DecoderConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The converse of :func:`config_from_hf`."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            rope |= {name: getattr(scaling, name) for name in names}
    return {
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
        "eos_token_id": list(tokenizer.eos_token_ids),
    }
