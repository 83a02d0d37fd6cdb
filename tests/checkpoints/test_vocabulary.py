"""The tokenizer of a checkpoint without its weights: that of the whole checkpoint, in every format."""

import json

import pytest

from experiments.convert import main as convert
from experiments.interrupts import Interrupts
from jaxdec.checkpoints import CheckpointError, load_checkpoint
from jaxdec.checkpoints.gguf_file import GGUFFile
from jaxdec.checkpoints.vocabulary import read_vocabulary
from tests.checkpoints.models_on_disk import VARIANTS, gguf_tensors, hf_tensors, write_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    config = VARIANTS["qwen3"]
    return write_gguf(tmp_path_factory.mktemp("models") / "m.gguf", config, gguf_tensors(config, hf_tensors(config)))


@pytest.fixture(params=["gguf", "safetensors", "orbax"])
def path(request, gguf_file, tmp_path):
    if request.param == "gguf":
        return gguf_file
    flags = ["convert", f"--model={gguf_file}", f"--out={tmp_path / 'm'}", f"--format={request.param}"]
    assert convert(flags, Interrupts("")) == 0
    return tmp_path / "m"


def test_it_is_that_of_the_model(path, gguf_file, monkeypatch):
    whole = load_checkpoint(path)
    monkeypatch.setattr(GGUFFile, "dequantize", lambda *_: pytest.fail("a weight was read"))
    tokenizer, size = read_vocabulary(path)
    assert size == whole.config.vocab_size
    assert tokenizer.encode("hi <|im_start|> é") == whole.tokenizer.encode("hi <|im_start|> é")
    # One model has one vocabulary, whatever it is stored as.
    assert tokenizer.vocabulary_sha256 == read_vocabulary(gguf_file).tokenizer.vocabulary_sha256


def test_what_is_no_checkpoint_is_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder at"):
        read_vocabulary(tmp_path / "nothing")
    if path.is_file():
        (tmp_path / "bad.gguf").write_bytes(path.read_bytes()[:200])
        with pytest.raises(CheckpointError, match=r"bad\.gguf.* cut short"):
            read_vocabulary(tmp_path / "bad.gguf")
        return
    (config,) = (path / name for name in ("config.json", "jaxdec_config.json") if (path / name).exists())
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "vocab_size": "many"}))
    with pytest.raises(CheckpointError, match="vocab_size in its config must be a positive integer, got 'many'"):
        read_vocabulary(path)
