"""A GGUF file with a tiny random model, which every engine of ``cpu_decode`` can read: what smoke runs decode.

Byte-level tokens. Its texts are letters: dimension 0 of every embedding is large, and the output head reads it with a positive
weight for letters and a negative one for all else, so that the command under test always has something to print.
"""

import string
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

WIDTH, INNER, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 128, 2, 4, 2, 2048
MERGED = "in"
SPECIAL = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_smoke_model(path: Path, seed: int = 0, context: int = CONTEXT) -> Path:
    """Write the file; the same seed gives the same bytes."""
    tokens = [*sorted(ByteLevel.alphabet()), MERGED, *SPECIAL]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(MERGED)])  # llama.cpp wants one at least
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, array in _tensors(tokens, np.random.default_rng(seed)):
        writer.add_tensor(name, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(tokens: list[str], random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``(name, array)``; matrices are ``[out, in]``."""
    head = WIDTH // HEADS
    shapes = {
        "attn_q": (HEADS * head, WIDTH),
        "attn_k": (KV_HEADS * head, WIDTH),
        "attn_v": (KV_HEADS * head, WIDTH),
        "attn_output": (WIDTH, HEADS * head),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    embedding = random.normal(size=(len(tokens), WIDTH))
    embedding[:, 0] = 4.0
    output = random.normal(size=embedding.shape) * 0.5
    letters = np.array([token in set(string.ascii_letters) for token in tokens])
    output[~letters] = 0.0
    output[:, 0] = np.where(letters, 1.0, -1.0)
    yield "token_embd.weight", embedding
    yield "output.weight", output
    yield "output_norm.weight", np.ones(WIDTH)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", np.ones(WIDTH)
        for name, (rows, columns) in shapes.items():
            yield f"blk.{layer}.{name}.weight", random.normal(size=(rows, columns)) * 2 / np.sqrt(columns)
