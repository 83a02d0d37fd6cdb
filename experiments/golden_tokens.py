"""Token ids by llama.cpp, of files with the vocabularies and pre-tokenizers that :mod:`jaxdec.tokenizers` rebuilds."""

import contextlib
import importlib
import json
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BYTE, CONTROL, NORMAL, UNKNOWN = 6, 3, 1, 2
WIDTH = 32
PIECES = [
    "▁", "a", "b", "c", "d", "e", "h", "l", "o", "r", "t", "w", "é", "▁a", "▁b", "▁t", "th", "he", "▁th",
    "▁the", "in", "an", "▁an", "and", "▁and", "ll", "llo", "hello", "▁hello", "ab", "ba", "aba", "abab", "▁▁",
    "▁▁▁▁", "aa", "aaa", "aaaa", "or", "ld", "world", "▁world", "i", "n", "1", "2", "12", ".", ",", ".,",
    ".....", "..", "▁.", "日", "本", "日本", "▁日", "s", "▁s", "</", "s>",
]  # fmt: skip


def sentencepiece_vocabulary() -> dict[str, list[Any]]:
    """A small SentencePiece vocabulary: tokens, scores and types, in GGUF's form."""
    pieces = list(dict.fromkeys(PIECES))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    scores = [0.0] * 259 + [-float(index) for index in range(len(pieces))]
    return {
        "tokens": tokens,
        "scores": scores,
        "token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces),
    }


def write_model(path: Path, tokenizer: dict[str, Any]) -> Path:
    """Write a model of one layer that nobody runs, so that llama.cpp loads ``tokenizer`` (keys of ``tokenizer.ggml``)."""
    gguf = importlib.import_module("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": WIDTH, "feed_forward_length": WIDTH}
    for key, value in {**sizes, "attention.head_count": 1, "attention.head_count_kv": 1}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in tokenizer.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}.get(type(value), writer.add_array)
        add(f"tokenizer.ggml.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokenizer["tokens"]), WIDTH), np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((WIDTH, WIDTH), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextlib.contextmanager
def llama_cpp(source: Path | dict[str, Any]) -> Iterator[Callable[[str], list[int]]]:
    """Yield llama.cpp's tokenizer of a GGUF file, or of :func:`write_model`'s, through the server in xllamacpp."""
    xllamacpp = importlib.import_module("xllamacpp")
    with tempfile.TemporaryDirectory() as folder:
        path = source if isinstance(source, Path) else write_model(Path(folder) / "vocabulary.gguf", source)
        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.n_ctx, parameters.warmup = str(path), 64, False
        server = xllamacpp.Server(parameters)

        def tokenize(text: str) -> list[int]:
            body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
            address = server.listening_address + "/tokenize"
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["tokens"]

        yield tokenize
        del server
