"""GGUF files (llama.cpp): config, weights and tokenizer of Llama, Qwen2 and Qwen3 models.

The ``gguf`` package parses and dequantises; here are the names, and one twist: llama.cpp stores the query and key rows of
Llama models permuted for interleaved rotary pairs, ``[2 * i, 2 * i + 1]`` instead of ``[i, i + E / 2]``.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np

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
ROWS_PER_TASK = 4096


def read_gguf(path: Path, dtype: Any = jnp.float32) -> tuple[DecoderConfig, PyTree, Tokenizer]:
    """Read a model from one GGUF file.

    Raises:
      CheckpointError: not a GGUF file, cut short, an architecture or tensor type that is not supported, a tensor that is
        missing or does not fit the config.
    """
    reader = open_gguf(path)
    metadata = Metadata(reader)
    try:
        config = config_from_gguf(metadata, reader)
        params = assemble_params(config, _TensorSource(reader, config), dtype)
        return config, params, tokenizer_from_gguf(metadata.get)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def open_gguf(path: Path) -> gguf.GGUFReader:
    """Open a file and check that all its tensors lie inside it.

    Raises:
      CheckpointError: not a GGUF file, or cut short.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"{path} is not a GGUF file: it begins with {magic!r} instead of b'GGUF'")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, OverflowError, KeyError, UnicodeDecodeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is cut short or corrupt: its header or tensors cannot be read ({error})"
        ) from error
    size = Path(path).stat().st_size
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            end = tensor.data_offset + tensor.n_bytes
            raise CheckpointError(f"{path} is cut short: tensor {tensor.name} ends at byte {end}, the file at {size}")
    return reader


class Metadata:
    """Key/value pairs of a GGUF header, read when asked for (the vocabulary is large)."""

    def __init__(self, reader: gguf.GGUFReader):
        self._fields = reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        """Value of ``key``, or ``default``."""
        return self._fields[key].contents() if key in self._fields else default

    def need(self, key: str) -> Any:
        """Value of ``key``; a :class:`CheckpointError` names it if it is missing."""
        if key not in self._fields:
            raise CheckpointError(f"metadata key {key} is missing")
        return self._fields[key].contents()


def config_from_gguf(metadata: Metadata, reader: gguf.GGUFReader) -> DecoderConfig:
    """Read the shape of the model from the header."""
    architecture = metadata.need("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}")

    def need(key: str) -> Any:
        return metadata.need(f"{architecture}.{key}")

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    if "token_embd.weight" not in shapes:
        raise CheckpointError("tensor token_embd.weight is missing")
    width, heads = int(need("embedding_length")), int(need("attention.head_count"))
    head_dim = int(get("attention.key_length", width // heads))
    theta = float(get("rope.freq_base", 10000.0))
    return DecoderConfig(
        architecture=architecture,
        vocab_size=shapes["token_embd.weight"][0],
        hidden_size=width,
        intermediate_size=int(need("feed_forward_length")),
        num_layers=int(need("block_count")),
        num_heads=heads,
        num_kv_heads=int(get("attention.head_count_kv", heads)),
        head_dim=head_dim,
        max_position_embeddings=int(need("context_length")),
        rms_norm_eps=float(need("attention.layer_norm_rms_epsilon")),
        rope_theta=theta,
        rope_scaling=_rope_scaling(get, reader, theta, head_dim),
        tie_embeddings="output.weight" not in shapes,
        attention_bias="blk.0.attn_q.bias" in shapes,
        output_bias="blk.0.attn_output.bias" in shapes,
        mlp_bias="blk.0.ffn_gate.bias" in shapes,
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
    )


def _rope_scaling(get, reader: gguf.GGUFReader, theta: float, head_dim: int) -> RopeScaling | None:
    kind = get("rope.scaling.type", "none")
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if factors is not None:
        return _llama3_scaling(np.asarray(factors, np.float64), theta, head_dim)
    if kind == "linear":
        return RopeScaling("linear", float(get("rope.scaling.factor", 1.0)))
    if kind in ("none", None):
        return None
    raise CheckpointError(f"rope scaling {kind!r} is not supported; supported: none, linear, llama3")


def _llama3_scaling(factors: np.ndarray, theta: float, head_dim: int) -> RopeScaling:
    """Find the Llama-3 scaling whose divisors of the frequencies the file stores, among those that were ever published."""
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    for factor in sorted({float(np.round(factors.max(), 3)), 8.0, 32.0}):
        for original in (8192, 4096, 2048, 16384, 32768):
            cycles = original * frequencies / (2 * math.pi)
            blend = np.clip((cycles - 1.0) / 3.0, 0.0, 1.0)
            if np.allclose(1 / ((1 - blend) / factor + blend), factors, rtol=1e-3):
                return RopeScaling("llama3", factor, 1.0, 4.0, original)
    raise CheckpointError("tensor rope_freqs.weight holds rotary factors of no known scaling (llama3 was tried)")


class _TensorSource:
    """Dequantised tensors by Hugging Face name."""

    def __init__(self, reader: gguf.GGUFReader, config: DecoderConfig):
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._config = config
        self._pool = ThreadPoolExecutor(max_workers=4)

    def __call__(self, name: str) -> np.ndarray:
        tensor = self._tensors[gguf_name(name)]
        array = self._dequantize(tensor)
        if self._config.architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = self._config.num_heads if ".q_proj." in name else self._config.num_kv_heads
            array = unpermute(array, heads)
        return array

    def _dequantize(self, tensor) -> np.ndarray:
        if tensor.tensor_type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F64):
            return np.asarray(tensor.data)
        try:
            if tensor.data.ndim == 1 or tensor.data.shape[0] <= ROWS_PER_TASK:
                return gguf.dequantize(tensor.data, tensor.tensor_type)
            pieces = [tensor.data[i : i + ROWS_PER_TASK] for i in range(0, len(tensor.data), ROWS_PER_TASK)]
            return np.concatenate(
                list(self._pool.map(lambda piece: gguf.dequantize(piece, tensor.tensor_type), pieces))
            )
        except NotImplementedError:
            kind = getattr(tensor.tensor_type, "name", tensor.tensor_type)
            raise CheckpointError(f"tensor {tensor.name} is stored as {kind}, which cannot be dequantised") from None


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
