"""Checkpoints: GGUF files, Hugging Face directories, Orbax directories."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxdec.checkpoints.files import HF_CONFIG, ORBAX_CONFIG, PICKLES
from jaxdec.errors import CheckpointError
from jaxdec.models.config import DecoderConfig
from jaxdec.tokenizers import Tokenizer
from jaxdec.typing import PyTree

__all__ = ["Checkpoint", "CheckpointError", "checkpoint_format", "load_checkpoint"]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model read from disk."""

    config: DecoderConfig
    params: PyTree
    tokenizer: Tokenizer


def load_checkpoint(path: Path, dtype: Any = jnp.float32) -> Checkpoint:
    """Read a GGUF file, a Hugging Face directory or an Orbax directory.

    Raises:
      FileNotFoundError: nothing at ``path``.
      CheckpointError: not a checkpoint we read, or not a sound one.
    """
    # The readers are imported when needed: orbax alone costs a second of start-up.
    path = Path(path)
    kind = checkpoint_format(path)
    if kind == "gguf":
        from jaxdec.checkpoints.gguf import read_gguf as read
    elif kind == "orbax":
        from jaxdec.checkpoints.orbax import read_orbax as read
    else:
        from jaxdec.checkpoints.hf_directory import read_hf_directory as read
    return Checkpoint(*read(path, dtype))


def checkpoint_format(path: Path) -> str:
    """``"gguf"`` (any file that is nothing else we know), ``"orbax"`` or ``"hf"``.

    Raises:
      FileNotFoundError: nothing at ``path``.
      CheckpointError: not a checkpoint we read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path}")
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(
                f"{path} is a pickle: reading it runs the code in it. Convert it to safetensors or GGUF"
            )
        if path.suffix == ".safetensors":
            raise CheckpointError(
                f"{path} is a weights file alone: give its folder, with config.json and tokenizer.json"
            )
        return "gguf"
    if (path / ORBAX_CONFIG).exists():
        return "orbax"
    if (path / HF_CONFIG).exists():
        return "hf"
    files = sorted(entry.name for entry in path.glob("*.gguf"))
    hint = f"; for the GGUF file in it, give {path / files[0]}" if files else ""
    raise CheckpointError(f"{path} has neither {HF_CONFIG} (Hugging Face) nor {ORBAX_CONFIG} (Orbax){hint}")
