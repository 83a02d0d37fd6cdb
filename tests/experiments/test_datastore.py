"""The datastore launcher: what goes into its files, that they speed the model up that they were made for, and no other."""

import importlib.metadata
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdec
from experiments import datastore
from experiments.interrupts import Interrupts
from experiments.text_sources import Text, installed_texts
from jaxdec.checkpoints.gguf_file import GGUFFile
from jaxdec.decoding.speculative.datastore import load_datastore
from jaxdec.decoding.speculative.trigram_table import load_trigram_table
from jaxdec.loading import LoadedModel
from tests.experiments.prompt_files import write_lines
from tests.tiny_text import byte_tokenizer


@pytest.fixture
def build(tiny_gguf, tmp_path, capsys):
    """``build(*flags)`` returns exit status, the path of the file, and stderr."""

    def build(*flags, kind="suffix"):
        out = tmp_path / "out.safetensors"
        flags = [f"--kind={kind}", f"--out={out}", f"--model={tiny_gguf}", *map(str, flags)]
        status = datastore.main(["datastore", *flags], Interrupts(""))
        captured = capsys.readouterr()
        assert captured.out == ""
        return status, out, captured.err

    return build


@pytest.fixture
def texts(tmp_path):
    """Two files, and a third in another folder."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, text in (("b.txt", "inside out"), ("a.txt", "\ufeffabcé"), ("deep/er/c.md", "xyz")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def texts_in(store):
    """Token ids of each text."""
    groups = itertools.groupby(np.asarray(store.tokens).tolist(), lambda token: token >= 0)
    return [list(group) for real, group in groups if real]


def test_a_datastore_holds_the_texts_in_order(build, texts, tiny_gguf, monkeypatch):
    monkeypatch.setattr(GGUFFile, "dequantize", lambda *_: pytest.fail("a weight was read"))
    flags = (f"--text={texts}/*.txt", f"--text={texts}/b.txt", f"--text={texts}/**/*.md")
    status, out, err = build(*flags)
    assert status == 0, err
    store = load_datastore(out)
    monkeypatch.undo()
    lm = jaxdec.load(tiny_gguf)
    # A byte-order mark is no text, and a file that two patterns match counts once.
    assert texts_in(store) == [lm.tokenizer.encode(text) for text in ("abcé", "inside out", "xyz")]
    assert (store.vocab_size, store.vocabulary) == (lm.model.vocab_size, lm.tokenizer.vocabulary_sha256)
    lines = err.splitlines()
    assert f"{texts}/a.txt: 5 tokens, 0.00 million characters" in lines
    assert "from 17 tokens of 3 texts" in lines[-1]
    assert f"--method=suffix_retrieval --datastore={out}" in lines[-1]


def test_a_table_holds_the_trigrams(build, texts, tiny_gguf):
    status, out, err = build(f"--text={texts}/b.txt", kind="trigram")
    assert status == 0, err
    tokenizer, table = jaxdec.load(tiny_gguf).tokenizer, load_trigram_table(out)
    a, b, c = tokenizer.encode("out")
    successors, weights = table.lookup(jnp.asarray([a, b]))
    assert (int(successors[0]), float(weights[0])) == (c, 1.0)
    assert table.vocabulary == tokenizer.vocabulary_sha256
    assert "--method=aded --trigram_table=" in err.splitlines()[-1]


@pytest.mark.parametrize(("kind", "use"), datastore.KINDS.items())
def test_the_model_guesses_from_its_own_answers(build, ask_generate, tmp_path, kind, use):
    """The whole way: answers to a file, the file to a datastore, and the same answers again in fewer calls."""
    prompts = write_lines(tmp_path / "prompts.jsonl", {"prompt": "abc"})
    flags = (f"--prompt_file={prompts}", "--max_new_tokens=24")
    plain = ask_generate(*flags, f"--out={tmp_path / 'answers.jsonl'}")["generations"][0]
    status, out, err = build(f"--model_outputs={tmp_path / 'answers.jsonl'}", kind=kind)
    assert status == 0, err
    option = "--option=window=0" if kind == "trigram" else "--option=min_suffix=2"  # what is built, not what is learnt
    fast = ask_generate(*flags, *f"{use}={out}".split(), "--tree_size=8", option)["generations"][0]
    assert fast["token_ids"] == plain["token_ids"]
    assert fast["tokens_per_call"] > 1.3


def test_answers_keep_the_tokens_they_were_said_in(build, tmp_path, tiny_gguf):
    tokenizer = jaxdec.load(tiny_gguf).tokenizer
    i, n = tokenizer.encode("i") + tokenizer.encode("n")
    said = {"text": "in", "token_ids": [i, n], "alternatives": [{"text": "out", "token_ids": [i]}]}
    cut = {"text": "o", "token_ids": tokenizer.encode("out!")}  # before a stop string
    strange = {"text": "n", "token_ids": [10**6]}
    half = {"text": "o\ud800"}
    lines = write_lines(tmp_path / "answers.jsonl", said, {"generations": [cut]}, strange, half, {"text": ""})
    status, out, err = build(f"--model_outputs={lines}")
    assert status == 0, err
    assert len(tokenizer.encode("in")) == 1
    expected = [[i, n], *map(tokenizer.encode, ("out", "out!", "n", "o?"))]
    assert texts_in(load_datastore(out)) == expected


@pytest.mark.parametrize("limit", [1, 5, 9])
def test_the_first_tokens_are_taken(build, texts, tiny_gguf, limit, monkeypatch):
    monkeypatch.setattr(datastore, "PIECE", 4)  # long texts are tokenised in pieces
    (texts / "a.txt").write_text("abc\nde")
    status, out, err = build(f"--text={texts}/*.txt", f"--max_tokens={limit}")
    assert status == 0, err
    tokenizer = jaxdec.load(tiny_gguf).tokenizer
    flat = [token for text in texts_in(load_datastore(out)) for token in text]
    assert flat == (tokenizer.encode("abc\nde") + tokenizer.encode("inside out"))[:limit]
    assert sum("the rest was left" in line for line in err.splitlines()) == 1


def test_pieces_end_with_lines(monkeypatch):
    monkeypatch.setattr(datastore, "PIECE", 5)
    encoded = []

    class Recorder:
        def encode(self, text, add_bos):
            encoded.append(text)
            return [0] * len(text)

    text = "ab\ncd\nefghijk\nl"
    assert datastore.token_ids(Text(text), Recorder(), 1, 100) == ([0] * len(text), len(text))
    assert encoded == ["ab\n", "cd\n", "efghi", "jk\nl"]


def test_what_is_installed_is_the_default(build):
    status, out, err = build("--max_tokens=3000")
    assert status == 0, err
    first = load_datastore(out)
    assert build("--max_tokens=3000", "--overwrite")[0] == 0
    assert texts_in(load_datastore(out)) == texts_in(first)
    assert int((first.tokens >= 0).sum()) == 3000
    assert err.splitlines()[1].startswith("the language reference of Python 3.")
    names = [source.name for source in installed_texts()]
    assert len(names) == 3
    assert f"jaxdec {importlib.metadata.version('jaxdec')}" in names[2]
    docstrings = (text.text for text in installed_texts()[1].texts)
    assert any(text.startswith("Bisection algorithms.") and "Insert item x in list a" in text for text in docstrings)
    assert any("Decode sequence models in JAX" in text.text for text in installed_texts()[2].texts)


def test_a_datastore_of_another_tokenizer_is_refused(build, texts, tiny_gguf):
    other = LoadedModel(jaxdec.load(tiny_gguf).model, byte_tokenizer(), "other")  # as many tokens, but not the same
    for kind, method, option in (
        ("suffix", "suffix_retrieval", "datastore"),
        ("trigram", "aded", "trigram_table"),
        ("trigram", "aded", "adaptive_table"),
    ):
        status, out, err = build(f"--text={texts}/b.txt", "--overwrite", kind=kind)
        assert status == 0, err
        with pytest.raises(ValueError, match=f"the {option} was made with another tokenizer than that of other"):
            jaxdec.Run(other, ["abc"], method=method, **{option: out})


BAD = [
    (["--kind="], "--kind is missing: give --kind and --out"),
    (["--out="], "--out is missing"),
    (["--kind=table"], "--kind must be one of suffix, trigram, got 'table'"),
    (["--max_tokens=0"], "--max_tokens must be from 1 to 2^31 - 1, got 0"),
    (["--text=/nowhere/*.txt"], "--text=/nowhere/*.txt: there is no such file, and no file that this matches"),
    (["--model_outputs=/nowhere"], "--model_outputs=/nowhere: there is no such file"),
    (["--model=/nowhere/m.gguf"], "/nowhere/m.gguf"),
    (["--txt=a"], "Unknown command line flag 'txt'"),
    (["a.txt"], "'a.txt' is not a flag"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_clear_line(build, flags, message):
    status, out, err = build(*flags)
    assert (status, out.exists()) == (2, False)
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_bad_files_are_named(build, tmp_path):
    def refused(content, flag, message):
        (tmp_path / "file").write_bytes(content)
        status, out, err = build(f"--{flag}={tmp_path / 'file'}")
        assert (status, out.exists()) == (2, False)
        assert message in err.splitlines()[-1]

    refused(b"\xff", "text", f"error: --text={tmp_path / 'file'}: it is not UTF-8")
    refused(b"", "text", "error: the texts hold 0 tokens: there is nothing to build from")
    refused(b'{"text": "a"}\n{', "model_outputs", "line 2 is not JSON")
    refused(json.dumps({"prompt": "a"}).encode(), "model_outputs", "line 1 must be an object with a 'text', got")
    (tmp_path / "file").write_text("ab")
    assert "the texts hold 2 tokens" in build(f"--text={tmp_path / 'file'}", kind="trigram")[2]


def test_only_its_own_files_are_replaced(build, texts):
    text = f"--text={texts}/b.txt"
    status, out, err = build(text)
    assert status == 0, err
    assert "it exists; give --overwrite to replace it" in build(text)[2]
    assert build(text, "--overwrite", kind="trigram")[0] == 0
    load_trigram_table(out)
    out.write_text("mine")
    status, _, err = build(text, "--overwrite")
    assert (status, out.read_text()) == (2, "mine")
    assert "it is not replaced, even with --overwrite" in err
