"""Tokenizers rebuilt from GGUF metadata, against llama.cpp's ids of the same files, and against plain references."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors

from experiments.golden_texts import sentencepiece_texts, texts
from experiments.golden_tokens import sentencepiece_vocabulary
from jaxdec.checkpoints import CheckpointError
from jaxdec.checkpoints.gguf_file import GGUFFile
from jaxdec.tokenizers import PRE_TOKENIZERS, Tokenizer, tokenizer_from_folder, tokenizer_from_gguf
from tests.real_model import real_model_path
from tests.tiny_text import byte_tokenizer

GOLDEN = Path(__file__).parent / "golden"


def rebuilt(**metadata) -> Tokenizer:
    """A tokenizer from keys of ``tokenizer.ggml``."""
    return tokenizer_from_gguf({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}.get)


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": [*ALPHABET, "he", "ll", "Ġw", "<|end|>", "<think>"],
    "token_type": [1] * 259 + [3, 4],
    "merges": ["h e", "l l", "Ġ w"],
    "eos_token_id": 259,
}


@functools.cache
def golden_tokens():
    return json.loads((GOLDEN / "smollm2_tokens.json").read_text())


@functools.cache
def smollm2_metadata():
    return GGUFFile(real_model_path()).metadata


@pytest.mark.model
def test_ids_are_those_of_llama_cpp():
    tokenizer = tokenizer_from_gguf(smollm2_metadata().get)
    entries = golden_tokens()["entries"]
    assert [text for text, _ in entries] == texts()
    assert len(entries) > 300
    for text, ids in entries:
        assert tokenizer.encode(text) == ids, text


def test_transformers_differs_only_in_spaces_before_digits():
    """What the golden file says of the other oracle: it agrees, except that it does not set digits apart."""
    entries, differ = golden_tokens()["entries"], golden_tokens()["transformers_differs"]
    assert len(differ) < 0.06 * len(entries)
    for index in differ:
        text = entries[index][0]
        assert any(
            before.isspace() and at.isspace() and after.isdigit() for before, at, after in zip(text, text[1:], text[2:])
        ) or (text[0].isspace() and text[1].isdigit()), text


@pytest.mark.model
@pytest.mark.parametrize("pre", ["default", "gpt-2", "llama-bpe", "qwen2"])
def test_ids_under_other_pre_tokenizers_are_those_of_llama_cpp(pre):
    golden = golden_tokens()
    tokenizer = tokenizer_from_gguf((smollm2_metadata() | {"tokenizer.ggml.pre": pre}).get)
    others = golden["pre_tokenizers"][pre]
    assert len(others) > 10  # it does differ from the model's own
    for index, (text, ids) in enumerate(golden["entries"]):
        assert tokenizer.encode(text, add_bos=False) == others.get(str(index), ids), text


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_ids_are_those_of_llama_cpp(prefix):
    tokenizer = rebuilt(model="llama", add_space_prefix=prefix, **sentencepiece_vocabulary())
    golden = json.loads((GOLDEN / "sentencepiece_tokens.json").read_text())["entries"]
    entries = [(text, ids) for with_prefix, text, ids in golden if with_prefix == prefix]
    assert [text for text, _ in entries] == sentencepiece_texts()
    for text, ids in entries:
        assert tokenizer.encode(text, add_bos=False) == ids, text


def sentencepiece_reference(text: str) -> list[int]:
    """Merge the neighbours whose union has the best score, the leftmost first, until none is a token; then bytes."""
    vocabulary = sentencepiece_vocabulary()
    index = {token: number for number, token in enumerate(vocabulary["tokens"])}
    symbols = list(("▁" + text).replace(" ", "▁"))
    while True:
        unions = [(-vocabulary["scores"][index[a + b]], place) for place, (a, b) in enumerate(itertools.pairwise(symbols))
                  if a + b in index and a in index and b in index]  # fmt: skip
        if not unions:
            break
        place = min(unions)[1]
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    ids = []
    for symbol in symbols:
        ids += [index[symbol]] if symbol in index else [index[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return ids


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aabdehlortw 12.日本é🙂\n"), min_size=1, max_size=24))
@example("aaaaaaa aaaa")
@example(".......")
def test_sentencepiece_against_a_plain_reference(text):
    tokenizer = sentencepiece_tokenizer()
    assert tokenizer.encode(text, add_bos=False) == sentencepiece_reference(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@functools.cache
def sentencepiece_tokenizer():
    return rebuilt(model="llama", **sentencepiece_vocabulary())


def test_sentencepiece_defaults_are_llama_2s():
    """Ids 1 and 2 begin and end a text where the file does not say, and the beginning is added."""
    tokenizer = sentencepiece_tokenizer()
    assert (tokenizer.bos_token_id, tokenizer.bos_token, tokenizer.eos_token) == (1, "<s>", "</s>")
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.encode("a")[0] == 1
    assert tokenizer.decode(tokenizer.encode("a</s>")) == "a"
    assert rebuilt(model="llama", add_bos_token=False, **sentencepiece_vocabulary()).encode("a")[0] != 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.sampled_from(sorted(set(PRE_TOKENIZERS) - {"qwen2"})))
def test_byte_level_text_comes_back(text, pre):
    tokenizer = byte_level_tokenizer(pre)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@functools.cache
def byte_level_tokenizer(pre):
    return rebuilt(**(BYTE_LEVEL | {"pre": pre}))


@pytest.mark.model
@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=9, max_codepoint=0x2FFFF, exclude_categories=["Cs", "Cc"]), max_size=40))
def test_text_comes_back_from_the_real_vocabulary(text):
    tokenizer = smollm2_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@functools.cache
def smollm2_tokenizer():
    return tokenizer_from_gguf(smollm2_metadata().get)


@pytest.mark.model
def test_what_the_real_tokenizer_says_of_itself():
    tokenizer = smollm2_tokenizer()
    assert tokenizer.vocab_size == 49152
    assert tokenizer.eos_token_ids == (0, 2)  # <|endoftext|>, <|im_end|>
    assert (tokenizer.bos_token_id, tokenizer.bos_token, tokenizer.eos_token) == (None, "<|im_start|>", "<|im_end|>")
    assert tokenizer.encode("<|im_start|>x<|im_end|>") == [1, 104, 2]
    assert tokenizer.decode([1, 104, 2]) == "x"


def test_qwen2_normalises_to_composed_characters():
    assert (
        rebuilt(**(BYTE_LEVEL | {"pre": "qwen2"})).decode(rebuilt(**(BYTE_LEVEL | {"pre": "qwen2"})).encode("e\u0301"))
        == "é"
    )


def pieces(tokenizer, text):
    return [piece for piece, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["DON", "'", "T", "Ġdon", "'t", "Ġ12345", "ĠĠ", "Ġ67", "Ċ", "Ċ", "x", "!?)."]),
        ("smollm", ["DON", "'", "T", "Ġdon", "'t", "Ġ", "1", "2", "3", "4", "5", "ĠĠĠ", "6", "7", "Ċ", "Ċ", "x", "!?)."]),
        ("llama-bpe", ["DON", "'T", "Ġdon", "'t", "Ġ", "123", "45", "ĠĠ", "Ġ", "67", "ĊĊ", "x", "!?)."]),
        ("qwen2", ["DON", "'T", "Ġdon", "'t", "Ġ", "1", "2", "3", "4", "5", "ĠĠ", "Ġ", "6", "7", "ĊĊ", "x", "!?)."]),
        ("default", ["DON", "'", "T", "Ġdon", "'", "t", "Ġ", "123", "45", "ĠĠ", "Ġ", "67", "Ċ", "Ċ", "x", "!?)."]),
    ],
)  # fmt: skip
def test_pieces_of_each_pre_tokenizer(pre, expected):
    assert pieces(byte_level_tokenizer(pre), "DON'T don't 12345   67\n\nx!?).") == expected


def test_llama3_takes_whole_tokens_that_no_merge_builds():
    """``ignore_merges`` of Llama 3: "hello" is a token, and the merges stop at "he" and "ll"."""
    tokens = {"tokens": [*BYTE_LEVEL["tokens"], "hello"], "token_type": [*BYTE_LEVEL["token_type"], 1]}
    whole = rebuilt(**(BYTE_LEVEL | tokens | {"pre": "llama-bpe", "bos_token_id": 259}))
    assert whole.encode("hello", add_bos=False) == [261]
    assert whole.encode("hello")[0] == 259  # and it begins every text, unless told otherwise
    parts = rebuilt(**(BYTE_LEVEL | tokens))
    assert [parts.backend.id_to_token(index) for index in parts.encode("hello")] == ["he", "ll", "o"]


def test_special_and_user_defined_tokens():
    tokenizer = rebuilt(**BYTE_LEVEL)
    ids = tokenizer.encode("a<think>b<|end|>")
    assert [tokenizer.backend.id_to_token(index) for index in ids] == ["a", "<think>", "b", "<|end|>"]
    assert tokenizer.decode(ids) == "a<think>b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<think>b<|end|>"


def test_bytes_without_a_symbol_are_dropped():
    """SmolLM2's vocabulary lacks 21 of the 256; llama.cpp drops them too."""
    tokenizer = rebuilt(model="gpt2", pre="gpt-2", tokens=["a", "b", "ab"], merges=["a b"])
    assert tokenizer.encode("ab\x07b") == [2, 1]


def test_declared_ends_and_known_ends_of_a_turn_are_united():
    tokens = [*ALPHABET, "<end>", "<eot>", "<eom>", "<|im_end|>", "he"]
    ends = {"eos_token_id": 256, "eot_token_id": 257, "eom_token_id": 258}
    tokenizer = rebuilt(model="gpt2", tokens=tokens, merges=["h e"], **ends)
    assert tokenizer.eos_token_ids == (256, 257, 258, 259)


BAD_METADATA = {
    "no tokens": ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
    "tokens of numbers": ({"tokens": [1, 2]}, "tokenizer.ggml.tokens must be an array of some items of the right type"),
    "a token twice": ({"tokens": [*ALPHABET[:-1], "A", *BYTE_LEVEL["tokens"][256:]]}, "tokenizer.ggml.tokens lists 'A' twice"),
    "no merges": ({"merges": None}, "tokenizer.ggml.merges is missing"),
    "merges of nothing": ({"merges": ["h e", "q zz"]}, "Token `zz` out of vocabulary"),
    "types for some": ({"token_type": [1, 1]}, "tokenizer.ggml.token_type must be an array of 261 items"),
    "unknown kind": ({"model": "t5"}, "tokenizer.ggml.model 't5' is not supported; supported: gpt2, llama"),
    "no kind": ({"model": None}, "tokenizer.ggml.model None is not supported"),
    "unknown pre": ({"pre": "tekken"}, "tokenizer.ggml.pre 'tekken' is not supported; supported: default, gpt-2"),
    "end outside": ({"eos_token_id": 261}, "tokenizer.ggml.eos_token_id is 261, outside the vocabulary [0, 261)"),
    "end as text": ({"eos_token_id": "x"}, "tokenizer.ggml.eos_token_id must be of type int, got 'x'"),
    "pieces without scores": ({"model": "llama"}, "tokenizer.ggml.scores is missing"),
    "scores for some": ({"model": "llama", "scores": [1.0]}, "tokenizer.ggml.scores must be an array of 261 items"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_METADATA)
def test_what_is_wrong_is_named(name):
    changes, message = BAD_METADATA[name]
    with pytest.raises(CheckpointError) as error:
        rebuilt(**{key: value for key, value in (BYTE_LEVEL | changes).items() if value is not None})
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "llama3"])
def test_a_saved_tokenizer_is_the_same_tokenizer(kind, tmp_path):
    tokenizer = {
        "byte-level": lambda: dataclasses.replace(rebuilt(**BYTE_LEVEL), chat_template="{{ 'ö' }}"),
        "sentencepiece": sentencepiece_tokenizer,
        "llama3": lambda: rebuilt(**(BYTE_LEVEL | {"pre": "llama-bpe", "bos_token_id": 260})),
    }[kind]()
    tokenizer.save(tmp_path)
    again = tokenizer_from_folder(tmp_path)
    for field in dataclasses.fields(Tokenizer):
        if field.name != "backend":
            assert getattr(again, field.name) == getattr(tokenizer, field.name), field.name
    for text in ["hello  world 12", "é🙂\n", "<think><|end|></s>"]:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        assert again.decode(ids) == tokenizer.decode(ids)
    # Other readers of tokenizer.json put the beginning there themselves.
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("hello").ids
    assert theirs == tokenizer.encode("hello")


def folder_with(folder, settings=None, template=None, **changes):
    byte_tokenizer().save(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, value in changes.items():
        setattr(backend, name, value)
    backend.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_templates_are_found_wherever_they_are_kept(tmp_path):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert tokenizer_from_folder(folder_with(tmp_path, {"chat_template": "inline"})).chat_template == "inline"
    assert tokenizer_from_folder(folder_with(tmp_path, {"chat_template": named})).chat_template == "yes"
    assert tokenizer_from_folder(folder_with(tmp_path, {"chat_template": named[:1]})).chat_template is None
    assert tokenizer_from_folder(folder_with(tmp_path, {})).chat_template is None
    assert (
        tokenizer_from_folder(folder_with(tmp_path, {"chat_template": "no"}, template="file")).chat_template == "file"
    )


def test_the_beginning_is_added_if_the_settings_or_the_tokenizer_say_so(tmp_path):
    settings = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    adds = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)])
    for more, changes, expected in [
        ({}, {}, None),
        ({"add_bos_token": True}, {}, 256),
        ({"add_bos_token": False}, {"post_processor": adds}, None),
        ({}, {"post_processor": adds}, 256),
    ]:
        tokenizer = tokenizer_from_folder(folder_with(tmp_path, settings | more, **changes))
        assert tokenizer.bos_token_id == expected
        assert tokenizer.encode("a") == ([expected] if expected is not None else []) + tokenizer.encode(
            "a", add_bos=False
        )
    assert tokenizer.eos_token_ids == (257,)


def test_truncation_and_padding_of_a_folder_are_not_applied(tmp_path):
    folder = folder_with(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(folder / "tokenizer.json"))
    assert len(tokenizer_from_folder(folder).encode("a" * 30)) == 30
