"""GGUF files (llama.cpp): config, weights and tokenizer of Llama, Qwen2 and Qwen3 models.

:mod:`jaxdec.checkpoints.gguf_file` reads the container; here are the names, and two twists of llama.cpp's. The query and key
rows of Llama models (not of Qwen's) are stored permuted for interleaved rotary pairs, ``[2 * i, 2 * i + 1]`` instead of
``[i, i + E / 2]``. Llama 3's frequency scaling is stored as the divisors it comes to, in the tensor ``rope_freqs.weight``.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdec.checkpoints.gguf_file import GGUFFile
from jaxdec.checkpoints.param_layout import assemble_params
from jaxdec.errors import CheckpointError
from jaxdec.models.config import ARCHITECTURES, DecoderConfig, RopeScaling
from jaxdec.tokenizers import Tokenizer, tokenizer_from_gguf
from jaxdec.typing import PyTree

HF_TO_GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ROPE_DIVISORS = "rope_freqs.weight"
LLAMA3_CYCLES = (1.0, 4.0)  # low_freq_factor and high_freq_factor of every Llama 3 model; the file does not hold them
LLAMA3_FACTORS = (8.0, 32.0)
TOLERANCE = 1e-4  # relative, of a divisor
LLAMA3_CONTEXTS = (8192, 4096, 2048, 16384, 32768)


def read_gguf(path: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read a model from one GGUF file.

    Raises:
      CheckpointError: not a GGUF file, cut short, an architecture or tensor type that is not supported, a tensor that is
        missing or does not fit the config.
    """
    file = GGUFFile(path)
    try:
        config = config_from_gguf(file)
        tokenizer = tokenizer_from_gguf(file.metadata.get)
        return config, assemble_params(config, _GGUFTensors(file, config), dtype), tokenizer
    except ValueError as error:  # CheckpointError, and what DecoderConfig refuses
        raise CheckpointError(f"{path}: {error}") from None


def config_from_gguf(file: GGUFFile) -> DecoderConfig:
    """Read the shape of the model from the header.

    Raises:
      CheckpointError: an unsupported architecture or feature, or a metadata key that is missing or malformed.
      ValueError: sizes that no model has.
    """
    architecture = _need(file.metadata, "general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")

    def need(key: str, kind: type, default: Any = None) -> Any:
        return _need(file.metadata, f"{architecture}.{key}", kind, default)

    if "token_embd.weight" not in file.tensors:
        raise CheckpointError("tensor token_embd.weight is missing")
    width, heads = need("embedding_length", int), need("attention.head_count", int)
    head_dim = need("attention.key_length", int, width // max(heads, 1))
    theta = need("rope.freq_base", float, 10000.0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if need(key, int, head_dim) != head_dim:
            found = file.metadata[f"{architecture}.{key}"]
            raise CheckpointError(
                f"{architecture}.{key} is {found}; only {head_dim}, the width of a head, is supported"
            )
    context = need("context_length", int)
    if 0 < (window := need("attention.sliding_window", int, 0)) < context:
        raise CheckpointError(f"{architecture}.attention.sliding_window is {window}; sliding windows are not supported")
    return DecoderConfig(
        architecture=architecture,
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=width,
        intermediate_size=need("feed_forward_length", int),
        num_layers=need("block_count", int),
        num_heads=heads,
        num_kv_heads=need("attention.head_count_kv", int, heads),
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=need("attention.layer_norm_rms_epsilon", float),
        rope_theta=theta,
        rope_scaling=_rope_scaling(need, file, theta, head_dim),
        tie_embeddings="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        qk_norm=architecture == "qwen3",
    )


def _need(metadata: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Value of ``key``, or ``default``; a :class:`CheckpointError` names a key that is missing or of another type."""
    value = metadata.get(key, default)
    if value is None:
        raise CheckpointError(f"metadata key {key} is missing")
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
        text = repr(value) if not isinstance(value, list) else f"an array of {len(value)}"
        raise CheckpointError(f"metadata key {key} must be of type {kind.__name__}, and is {text}")
    return kind(value)


def _rope_scaling(need: Any, file: GGUFFile, theta: float, head_dim: int) -> RopeScaling | None:
    factor = need("rope.scaling.factor", float, need("rope.scale_linear", float, 1.0))
    kind = need("rope.scaling.type", str, "linear")
    if kind not in ("none", "linear"):
        raise CheckpointError(f"rope scaling {kind!r} is not supported; supported: none, linear, llama3")
    linear = RopeScaling("linear", factor) if kind == "linear" and factor not in (0.0, 1.0) else None
    if ROPE_DIVISORS not in file.tensors:
        return linear
    if linear is not None:
        raise CheckpointError(f"rope scaling 'linear' together with a tensor {ROPE_DIVISORS} is not supported")
    return _llama3_scaling(file.dequantize(ROPE_DIVISORS).astype(np.float64), theta, head_dim)


def _llama3_scaling(divisors: np.ndarray, theta: float, head_dim: int) -> RopeScaling | None:
    """Find the Llama 3 scaling that these divisors of the rotary frequencies come from.

    With ``c`` the cycles that a frequency makes in the original context, divisors are ``1 / ((1 - b) / factor + b)`` where
    ``b = clip((c - low) / (high - low), 0, 1)``. A divisor strictly between 1 and ``factor`` gives ``c``, and so the context.
    """
    if divisors.shape != (head_dim // 2,):
        raise CheckpointError(
            f"tensor {ROPE_DIVISORS} has shape {divisors.shape}, the config asks for {(head_dim // 2,)}"
        )
    if np.allclose(divisors, 1.0, rtol=1e-6):
        return None
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    low, high = LLAMA3_CYCLES
    # The largest divisor, stored as float32, is the factor, unless no frequency is slow enough to be divided in full.
    largest = float(f"{divisors.max():.6g}")
    for factor in dict.fromkeys((largest, *LLAMA3_FACTORS)):
        whole, divided = divisors < 1 + TOLERANCE / 2, divisors > factor * (1 - TOLERANCE / 2)
        blended = ~whole & ~divided
        blend = (1 / divisors[blended] - 1 / factor) / (1 - 1 / factor)
        solved = (low + (high - low) * blend) * 2 * math.pi / frequencies[blended]
        # Without a blended frequency many contexts come to the same: a published one, or the shortest, stands for them.
        shortest = high * 2 * math.pi / frequencies[whole].min(initial=1.0)
        for context in (*(round(float(value)) for value in solved), *LLAMA3_CONTEXTS, math.ceil(shortest)):
            cycles = context * frequencies / (2 * math.pi)
            expected = np.clip((cycles - low) / (high - low), 0.0, 1.0)
            if np.allclose(1 / ((1 - expected) / factor + expected), divisors, rtol=TOLERANCE):
                return RopeScaling("llama3", factor, low, high, context)
    raise CheckpointError(f"tensor {ROPE_DIVISORS} holds rotary factors of no known scaling (llama3 was tried)")


class _GGUFTensors:
    """A GGUF file as a :class:`jaxdec.checkpoints.param_layout.TensorStore`."""

    def __init__(self, file: GGUFFile, config: DecoderConfig):
        self._file = file
        self._permuted = {}
        if config.architecture == "llama":
            self._permuted = {"self_attn.q_proj": config.num_heads, "self_attn.k_proj": config.num_kv_heads}

    def stored_name(self, name: str) -> str:
        return gguf_name(name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self._file.tensors.items() if name != ROPE_DIVISORS}

    def read(self, name: str) -> np.ndarray:
        array = self._file.dequantize(gguf_name(name))
        module = name.rsplit(".", 1)[0].split(".", 3)[-1]
        return unpermute(array, self._permuted[module]) if module in self._permuted else array


def gguf_name(name: str) -> str:
    """GGUF's name of a Hugging Face tensor."""
    stem, kind = name.rsplit(".", 1)
    if stem in HF_TO_GGUF:
        return f"{HF_TO_GGUF[stem]}.{kind}"
    _, _, index, module = stem.split(".", 3)
    return f"blk.{index}.{HF_TO_GGUF[module]}.{kind}"


def unpermute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo llama.cpp's permutation of query or key rows: interleaved rotary pairs become halves."""
    shape = rows.shape
    return rows.reshape(num_heads, shape[0] // num_heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
