"""Text to token ids and back, with the ``tokenizers`` library; tokenizers stored in GGUF files are rebuilt."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from jaxdec.errors import CheckpointError

# How each family's pre-tokenizer cuts text before merging, in GGUF's naming (``tokenizer.ggml.pre``).
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PRE_TOKENIZERS: dict[str, list[Any]] = {
    "default": [Regex(_GPT2)],
    "gpt-2": [Regex(_GPT2)],
    "smollm": [Regex(r"\p{N}"), Regex(_GPT2)],
    "llama-bpe": [Regex(_LLAMA3)],
    "llama3": [Regex(_LLAMA3)],
    "qwen2": [Regex(_QWEN2)],
}
# Tokens that end a turn in the chat formats of the families we load, beside the declared end-of-text token.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "</s>")
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer and what a chat needs to know about it.

    Attributes:
      backend: the ``tokenizers`` object; it adds no special tokens of its own.
      eos_token_ids: ids that end a text.
      bos_token_id: put before a raw prompt if the model wants one.
      chat_template: jinja source, or None.
      bos_token: text of the beginning token, for templates.
      eos_token: text of the main end token, for templates.
    """

    backend: tokenizers.Tokenizer
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    chat_template: str | None = None
    bos_token: str = ""
    eos_token: str = ""

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of ``text``; markers such as ``<|im_start|>`` become their own ids."""
        ids = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_token_id, *ids] if add_bos and self.bos_token_id is not None else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no whole character yet become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` in Hugging Face's form."""
        self.backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token or None,
            "eos_token": self.eos_token or None,
            "add_bos_token": self.bos_token_id is not None,
            "eos_token_ids": list(self.eos_token_ids),
            "chat_template": self.chat_template,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False))


def tokenizer_from_folder(folder: Path, eos_token_ids: tuple[int, ...] = ()) -> Tokenizer:
    """Read ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja`` of a Hugging Face directory.

    Args:
      folder: the directory.
      eos_token_ids: further end tokens, from ``config.json`` or ``generation_config.json``.

    Raises:
      CheckpointError: ``tokenizer.json`` is missing or cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"{folder} has no tokenizer.json (only fast tokenizers are read)")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise CheckpointError(f"{path} is not a tokenizer: {error}") from None
    settings_path = folder / "tokenizer_config.json"
    settings = json.loads(settings_path.read_text()) if settings_path.exists() else {}
    template_path = folder / "chat_template.jinja"
    template = template_path.read_text() if template_path.exists() else settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)

    def text_of(token) -> str:
        return (token.get("content") if isinstance(token, dict) else token) or ""

    bos, eos = text_of(settings.get("bos_token")), text_of(settings.get("eos_token"))
    adds_bos = settings.get("add_bos_token")
    if adds_bos is None:  # recent configs leave it to the post-processor of tokenizer.json
        adds_bos = bool(bos) and backend.encode("a").ids[:1] == [backend.token_to_id(bos)]
    ends = _end_tokens(backend, [backend.token_to_id(eos), *settings.get("eos_token_ids", []), *eos_token_ids])
    return Tokenizer(
        backend=backend,
        eos_token_ids=ends,
        bos_token_id=backend.token_to_id(bos) if adds_bos and bos else None,
        chat_template=template,
        bos_token=bos,
        eos_token=eos,
    )


def tokenizer_from_gguf(get: Callable[..., Any]) -> Tokenizer:
    """Rebuild the tokenizer that a GGUF file describes.

    Args:
      get: ``get(key, default=None)`` reads the file's metadata.

    Raises:
      CheckpointError: no tokenizer, or of a kind that is not supported.
    """
    kind, tokens = get("tokenizer.ggml.model"), get("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError("the file holds no tokenizer (tokenizer.ggml.tokens)")
    if kind == "gpt2":
        backend = _byte_level_bpe(tokens, get("tokenizer.ggml.merges"), get("tokenizer.ggml.pre", "default"))
    elif kind == "llama":
        backend = _sentencepiece_bpe(tokens, get("tokenizer.ggml.scores"), get("tokenizer.ggml.add_space_prefix", True))
    else:
        raise CheckpointError(f"tokenizer.ggml.model {kind!r} is not supported; supported: gpt2, llama")
    types = get("tokenizer.ggml.token_type") or [1] * len(tokens)
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    backend.add_tokens(added)

    def token_of(key) -> tuple[int | None, str]:
        index = get(f"tokenizer.ggml.{key}_token_id")
        return (None, "") if index is None else (int(index), tokens[int(index)])

    (bos_id, bos), (eos_id, eos) = token_of("bos"), token_of("eos")
    adds_bos = get(
        "tokenizer.ggml.add_bos_token", kind == "llama" or get("tokenizer.ggml.pre") in ("llama-bpe", "llama3")
    )
    return Tokenizer(
        backend=backend,
        eos_token_ids=_end_tokens(backend, [eos_id, token_of("eot")[0], token_of("eom")[0]]),
        bos_token_id=bos_id if adds_bos else None,
        chat_template=get("tokenizer.chat_template"),
        bos_token=bos,
        eos_token=eos,
    )


def _end_tokens(backend: tokenizers.Tokenizer, declared: list[int | None]) -> tuple[int, ...]:
    known = [backend.token_to_id(token) for token in END_OF_TURN]
    return tuple(sorted({int(token) for token in [*declared, *known] if token is not None}))


def _byte_level_bpe(tokens: list[str], merges: list[str], pre: str) -> tokenizers.Tokenizer:
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise CheckpointError(f"tokenizer.ggml.pre {pre!r} is not supported; supported: {known}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, fuse_unk=False))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(pattern, behavior="isolated") for pattern in PRE_TOKENIZERS[pre]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe(tokens: list[str], scores: list[float], add_space_prefix: bool) -> tokenizers.Tokenizer:
    """SentencePiece BPE: a merge's rank is the score of the piece it makes; unknown bytes fall back to ``<0xNN>``."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    ranked = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    merges = [(left, right) for *_, left, right in ranked]
    unknown = "<unk>" if "<unk>" in vocabulary else None
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if add_space_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if add_space_prefix else undo)
    return backend
