"""Small random models written to disk by libraries that are not ours, for tests of the readers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

from jaxdec.models.config import DecoderConfig, RopeScaling
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

SMALL = DecoderConfig(
    architecture="llama",
    vocab_size=NUM_TOKENS,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=float(np.float32(1e-5)),  # GGUF stores float32
    rope_theta=10000.0,
)
BIASES = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
VARIANTS = {
    "llama": SMALL,
    "llama_untied": dataclasses.replace(SMALL, tie_embeddings=False),
    "llama_biases": dataclasses.replace(SMALL, **BIASES),
    "llama_wide_heads": dataclasses.replace(SMALL, head_dim=24, num_kv_heads=4),
    "llama_linear": dataclasses.replace(SMALL, rope_scaling=RopeScaling("linear", 4.0)),
    "llama3": dataclasses.replace(
        SMALL, rope_theta=500000.0, head_dim=32, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    ),
    "qwen2": dataclasses.replace(SMALL, architecture="qwen2", attention_bias=True, rope_theta=1e6),
    "qwen3": dataclasses.replace(SMALL, architecture="qwen3", qk_norm=True, head_dim=32, tie_embeddings=False),
}


def hf_tensors(config: DecoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of a model under their Hugging Face names, listed here once more and independently."""
    rng = np.random.default_rng(seed)
    width, ff, heads, kv_heads, head = (
        config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads, config.head_dim
    )  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, width),
        "model.norm.weight": (width,),
    }
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    for index in range(config.num_layers):
        matrices = {
            "self_attn.q_proj": (heads * head, width, config.attention_bias),
            "self_attn.k_proj": (kv_heads * head, width, config.attention_bias),
            "self_attn.v_proj": (kv_heads * head, width, config.attention_bias),
            "self_attn.o_proj": (width, heads * head, config.output_bias),
            "mlp.gate_proj": (ff, width, config.mlp_bias),
            "mlp.up_proj": (ff, width, config.mlp_bias),
            "mlp.down_proj": (width, ff, config.mlp_bias),
        }
        layer = f"model.layers.{index}"
        for name, (rows, columns, has_bias) in matrices.items():
            shapes[f"{layer}.{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{layer}.{name}.bias"] = (rows,)
        norms = {"input_layernorm": width, "post_attention_layernorm": width}
        if config.qk_norm:
            norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
        shapes |= {f"{layer}.{name}.weight": (size,) for name, size in norms.items()}
    return {name: (rng.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in shapes.items()}


def expected_params(config: DecoderConfig, tensors: dict[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """What the parameter tree must hold, by path, written down independently of the reader."""
    tree = {
        ("embed", "embedding"): tensors["model.embed_tokens.weight"],
        ("final_norm", "scale"): tensors["model.norm.weight"],
    }
    if not config.tie_embeddings:
        tree["head", "weight"] = tensors["lm_head.weight"]
    stacks = {
        ("attention", "qkv"): ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ("attention", "output"): ["self_attn.o_proj"],
        ("mlp", "gate_up"): ["mlp.gate_proj", "mlp.up_proj"],
        ("mlp", "down"): ["mlp.down_proj"],
    }
    norms = {
        ("attention_norm",): "input_layernorm",
        ("mlp_norm",): "post_attention_layernorm",
        ("attention", "query_norm"): "self_attn.q_norm",
        ("attention", "key_norm"): "self_attn.k_norm",
    }
    for index in range(config.num_layers):
        layer, ours = f"model.layers.{index}", f"layer_{index}"
        for path, names in stacks.items():
            for kind in ("weight", "bias"):
                if f"{layer}.{names[0]}.{kind}" in tensors:
                    tree[(ours, *path, kind)] = np.concatenate([tensors[f"{layer}.{name}.{kind}"] for name in names])
        for path, name in norms.items():
            if f"{layer}.{name}.weight" in tensors:
                tree[(ours, *path, "scale")] = tensors[f"{layer}.{name}.weight"]
    return tree


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_tensor_name(name: str) -> str:
    """GGUF's name of a Hugging Face tensor."""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, index, module = stem.split(".", 3)
        return f"blk.{index}.{GGUF_NAMES[module]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def llama_cpp_row_order(rows: int, num_heads: int) -> np.ndarray:
    """Which row llama.cpp's converter puts where: its ``permute``, applied to the row numbers."""
    return np.arange(rows).reshape(num_heads, 2, rows // num_heads // 2).swapaxes(1, 2).reshape(rows)


def gguf_tensors(config: DecoderConfig, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors as llama.cpp stores them: renamed, query and key rows of Llama permuted, divisors of Llama 3."""
    stored = {}
    for name, tensor in tensors.items():
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
        if config.architecture == "llama" and heads:
            tensor = tensor[llama_cpp_row_order(len(tensor), heads)]
        stored[gguf_tensor_name(name)] = tensor
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        stored["rope_freqs.weight"] = llama3_divisors(config)
    return stored


def llama3_divisors(config: DecoderConfig) -> np.ndarray:
    """Llama 3.1's scaling, case by case as its authors wrote it."""
    scaling, divisors = config.rope_scaling, []
    for pair in range(config.head_dim // 2):
        wavelength = 2 * np.pi * config.rope_theta ** (2 * pair / config.head_dim)
        if wavelength < scaling.original_max_position_embeddings / scaling.high_freq_factor:
            divisors.append(1.0)
        elif wavelength > scaling.original_max_position_embeddings / scaling.low_freq_factor:
            divisors.append(scaling.factor)
        else:
            smooth = scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor
            smooth /= scaling.high_freq_factor - scaling.low_freq_factor
            divisors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(divisors, np.float32)


def write_gguf(
    path: Path,
    config: DecoderConfig,
    tensors: dict[str, Any],
    *,
    metadata: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> Path:
    """Write a model with the ``gguf`` package and the byte tokenizer.

    Args:
      path: the file.
      config: its metadata are derived from this.
      tensors: by GGUF name: an array, or ``(raw bytes [rows, bytes], block format)``.
      metadata: keys to add or to replace.
      leave_out: metadata keys to omit.
    """
    metadata = dict(metadata or {})
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", config.architecture))
    prefix = config.architecture
    backend = byte_tokenizer().backend
    tokens = [backend.id_to_token(index) for index in range(NUM_TOKENS)]
    pairs: dict[str, Any] = {
        f"{prefix}.block_count": config.num_layers,
        f"{prefix}.context_length": config.max_position_embeddings,
        f"{prefix}.embedding_length": config.hidden_size,
        f"{prefix}.feed_forward_length": config.intermediate_size,
        f"{prefix}.attention.head_count": config.num_heads,
        f"{prefix}.attention.head_count_kv": config.num_kv_heads,
        f"{prefix}.attention.key_length": config.head_dim,
        f"{prefix}.attention.value_length": config.head_dim,
        f"{prefix}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{prefix}.rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (NUM_TOKENS - 2) + [3, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 257,
    }
    pairs["tokenizer.ggml.tokens"][0] = "ab"  # one merge, so that the list is not empty
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        pairs |= {f"{prefix}.rope.scaling.type": "linear", f"{prefix}.rope.scaling.factor": config.rope_scaling.factor}
    for key, value in (pairs | metadata).items():
        if key in leave_out:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[0], raw_dtype=tensor[1])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_hf(
    folder: Path,
    config: DecoderConfig,
    tensors: dict[str, Any],
    *,
    settings: dict[str, Any] | None = None,
    shards: int = 1,
) -> Path:
    """Write a Hugging Face directory by hand, in the older spelling of ``config.json``; a setting of None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "hidden_act": "silu",
    }
    if config.rope_scaling is not None:
        scaling = dataclasses.asdict(config.rope_scaling)
        values["rope_scaling"] = {"type": scaling.pop("kind"), **scaling}
    values |= settings or {}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    byte_tokenizer().save(folder)
    names = sorted(tensors)
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names[shard::shards]}, folder / file)
        weight_map |= dict.fromkeys(names[shard::shards], file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def assert_params(params: Any, expected: dict[tuple[str, ...], np.ndarray], dtype: Any = np.float32) -> None:
    """Check a parameter tree bit by bit; norm scales are float32 whatever ``dtype``."""
    import jax

    found = {
        tuple(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    assert set(found) == set(expected)
    for path, want in expected.items():
        kind = np.promote_types(dtype, np.float32) if path[-1] == "scale" else dtype
        assert found[path].dtype == kind, path
        np.testing.assert_array_equal(found[path], want.astype(kind), err_msg="/".join(path))
