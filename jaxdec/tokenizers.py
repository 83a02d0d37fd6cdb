"""Text to token ids and back, with the ``tokenizers`` library; tokenizers stored in GGUF files are rebuilt."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json

# How each family's pre-tokenizer cuts text before merging, in GGUF's naming (``tokenizer.ggml.pre``). The patterns are those
# of the families' own tokenizer.json and of llama.cpp's src/llama-vocab.cpp; "default" is llama.cpp's alone.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
}
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")
# Tokens that end a turn in the chat formats of the families we load, beside the declared end-of-text token.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "</s>")
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
SENTENCEPIECE_IDS = {"bos": 1, "eos": 2}  # where a file does not say


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

    @property
    def vocabulary_sha256(self) -> str:
        """SHA-256 over all tokens with their ids: tables of token ids made with one tokenizer mean nothing to another.

        Two files of one model, such as GGUF and ``tokenizer.json``, agree here unless one of them has padding tokens.
        """
        tokens = sorted(self.backend.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of ``text``; markers such as ``<|im_start|>`` become their own ids."""
        ids = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_token_id, *ids] if add_bos and self.bos_token_id is not None else ids

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no whole character yet become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json`` in Hugging Face's form."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        if self.bos_token_id is not None:
            # Ours is put there by encode(); other readers expect the tokenizer to do it.
            backend.post_processor = processors.TemplateProcessing(
                single=f"{self.bos_token} $A",
                pair=f"{self.bos_token} $A {self.bos_token} $B:1",
                special_tokens=[(self.bos_token, self.bos_token_id)],
            )
        backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.bos_token or None,
            "eos_token": self.eos_token or None,
            "add_bos_token": self.bos_token_id is not None,
            "eos_token_ids": list(self.eos_token_ids),
            "chat_template": self.chat_template,
        }
        (folder / "tokenizer_config.json").write_text(
            json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8"
        )


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
    # What a file says about batches of short texts must not cut or pad a prompt.
    backend.no_truncation()
    backend.no_padding()
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.exists() else {}
    template_path = folder / "chat_template.jinja"
    template = template_path.read_text(encoding="utf-8") if template_path.exists() else settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
        template = named[0].get("template") if named else None
    bos, eos = _text_of(settings.get("bos_token")), _text_of(settings.get("eos_token"))
    bos_id = backend.token_to_id(bos) if bos else None
    adds_bos = settings.get("add_bos_token")
    if adds_bos is None:  # recent configs leave it to the post-processor of tokenizer.json
        adds_bos = bos_id is not None and backend.encode("a").ids[:1] == [bos_id]
    return Tokenizer(
        backend=backend,
        eos_token_ids=_end_tokens(
            backend, [backend.token_to_id(eos), *(settings.get("eos_token_ids") or []), *eos_token_ids]
        ),
        bos_token_id=bos_id if adds_bos else None,
        chat_template=template,
        bos_token=bos,
        eos_token=eos,
    )


def _text_of(token: Any) -> str:
    """Text of a special token, which is a string, an object with its content, or null."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


def tokenizer_from_gguf(get: Callable[..., Any]) -> Tokenizer:
    """Rebuild the tokenizer that a GGUF file describes.

    Args:
      get: ``get(key, default=None)`` reads the file's metadata.

    Raises:
      CheckpointError: no tokenizer, or of a kind that is not supported.
    """

    def value(key: str, kind: type, default: Any = None) -> Any:
        found = get(f"tokenizer.{key}", default)
        if found is not None and not isinstance(found, kind):
            raise CheckpointError(
                f"metadata key tokenizer.{key} must be of type {kind.__name__}, got {str(found)[:60]!r}"
            )
        return found

    def listed(key: str, kind: Any, length: int | None = None) -> list[Any]:
        items = value(f"ggml.{key}", list)
        if not items:
            raise CheckpointError(f"metadata key tokenizer.ggml.{key} is missing or empty")
        if not isinstance(items[0], kind) or length not in (None, len(items)):  # GGUF's arrays hold one type
            raise CheckpointError(
                f"metadata key tokenizer.ggml.{key} must be an array of {length or 'some'} items of the right type, got "
                f"{len(items)} like {items[0]!r}"
            )
        return items

    def token_of(key: str) -> tuple[int | None, str]:
        index = value(f"ggml.{key}_token_id", int, SENTENCEPIECE_IDS.get(key) if model == "llama" else None)
        if index is None:
            return None, ""
        if not 0 <= index < len(tokens):
            raise CheckpointError(
                f"tokenizer.ggml.{key}_token_id is {index}, outside the vocabulary [0, {len(tokens)})"
            )
        return index, tokens[index]

    model, pre, tokens = value("ggml.model", str), value("ggml.pre", str, "default"), listed("tokens", str)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocabulary[token] != index)
        raise CheckpointError(f"tokenizer.ggml.tokens lists {twice!r} twice")
    try:
        if model == "gpt2":
            backend = _byte_level_bpe(vocabulary, listed("merges", str), pre)
        elif model == "llama":
            scores = listed("scores", (int, float), len(tokens))
            backend = _sentencepiece_bpe(vocabulary, scores, value("ggml.add_space_prefix", bool, True))
        else:
            raise CheckpointError(f"tokenizer.ggml.model {model!r} is not supported; supported: gpt2, llama")
    except CheckpointError:
        raise
    except Exception as error:  # the Rust library raises bare Exception, for a merge outside the vocabulary for example
        raise CheckpointError(f"the file's tokenizer cannot be rebuilt: {error}") from None
    if value("ggml.token_type", list) is not None:
        types = zip(tokens, listed("token_type", int, len(tokens)))
        added = [(token, type_) for token, type_ in types if type_ in (CONTROL, USER_DEFINED) and token]
        backend.add_tokens([AddedToken(token, special=type_ == CONTROL, normalized=False) for token, type_ in added])
    (bos_id, bos), (eos_id, eos) = token_of("bos"), token_of("eos")
    adds_bos = value("ggml.add_bos_token", bool, model == "llama" or pre in LLAMA3_NAMES)
    return Tokenizer(
        backend=backend,
        eos_token_ids=_end_tokens(backend, [eos_id, token_of("eot")[0], token_of("eom")[0]]),
        bos_token_id=bos_id if adds_bos else None,
        chat_template=value("chat_template", str),
        bos_token=bos,
        eos_token=eos,
    )


def _end_tokens(backend: tokenizers.Tokenizer, declared: list[int | None]) -> tuple[int, ...]:
    known = [backend.token_to_id(token) for token in END_OF_TURN]
    return tuple(sorted({int(token) for token in [*declared, *known] if token is not None}))


def _byte_level_bpe(vocabulary: dict[str, int], merges: list[str], pre: str) -> tokenizers.Tokenizer:
    """Byte-level BPE. Bytes for which the vocabulary has no symbol are dropped, as every other implementation does."""
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise CheckpointError(f"tokenizer.ggml.pre {pre!r} is not supported; supported: {known}")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    # Llama 3's merges do not build every token: a piece of text that is a token as a whole becomes that token.
    ignore_merges = pre in LLAMA3_NAMES
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, fuse_unk=False, ignore_merges=ignore_merges)
    )
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in PRE_TOKENIZERS[pre]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece_bpe(vocabulary: dict[str, int], scores: list[float], add_space_prefix: bool) -> tokenizers.Tokenizer:
    """SentencePiece BPE: a merge's rank is the score of the piece it makes; unknown bytes fall back to ``<0xNN>``."""
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
