"""The tokenizer of a checkpoint and the size of its vocabulary, without the weights: what tables of token ids are made from."""

from pathlib import Path
from typing import NamedTuple

from jaxdec.checkpoints import checkpoint_format
from jaxdec.checkpoints.files import HF_CONFIG, ORBAX_CONFIG
from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json
from jaxdec.tokenizers import Tokenizer, tokenizer_from_folder, tokenizer_from_gguf


class Vocabulary(NamedTuple):
    """A tokenizer, and the number of tokens that its model tells apart (which may be more than the tokenizer has)."""

    tokenizer: Tokenizer
    vocab_size: int


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the tokenizer of a GGUF file, a Hugging Face directory or an Orbax directory.

    Raises:
      FileNotFoundError: nothing at ``path``.
      CheckpointError: not a checkpoint we read, or not a sound one.
    """
    path = Path(path)
    kind = checkpoint_format(path)
    try:
        if kind == "gguf":
            from jaxdec.checkpoints.gguf import config_from_gguf
            from jaxdec.checkpoints.gguf_file import GGUFFile

            file = GGUFFile(path)
            return Vocabulary(tokenizer_from_gguf(file.metadata.get), config_from_gguf(file).vocab_size)
        size = read_json(path / (ORBAX_CONFIG if kind == "orbax" else HF_CONFIG)).get("vocab_size")
        if not isinstance(size, int) or size < 1:
            raise CheckpointError(f"vocab_size in its config must be a positive integer, got {size!r}")
        return Vocabulary(tokenizer_from_folder(path), size)
    except ValueError as error:  # CheckpointError, and what DecoderConfig refuses
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
