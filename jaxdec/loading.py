"""``jaxdec.load``: a name or a path in, a model ready to decode out."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp

from jaxdec.checkpoints import load_checkpoint
from jaxdec.checkpoints.registry import resolve
from jaxdec.language_model import LanguageModel
from jaxdec.models.transformer import Transformer, in_int8
from jaxdec.tokenizers import Tokenizer

DTYPES = ("float32", "bfloat16", "float64", "int8")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A language model with its tokenizer.

    Attributes:
      model: the model bound to its parameters.
      tokenizer: text to token ids and back.
      name: what the user asked for.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    name: str


def load(name_or_path: str | Path, *, dtype: str = "float32", row_tile: int = 1) -> LoadedModel:
    """Load a model.

    Args:
      name_or_path: a registered name (``"smollm2-135m-instruct"``; fetched once), a GGUF file, a Hugging Face directory, an
        Orbax directory, or ``"hf:owner/name"``.
      dtype: ``"float32"``, ``"bfloat16"``, ``"float64"`` (needs ``jax_enable_x64``), or ``"int8"``: weights and what they
        multiply in eight bits, the rest in float32. An int8 model says slightly other things than the original
        (:mod:`jaxdec.models.int8`); decoding methods keep their guarantees relative to its own plain decoding.
      row_tile: pad the rows of every matrix product to a multiple of this, so that decoding one token and verifying
        several round alike; see :func:`jaxdec.models.linear.linear`.

    Raises:
      ValueError: an unknown name or dtype, ``row_tile`` below 1, or a file that is not a sound checkpoint.
      FileNotFoundError: a path that does not exist.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "float64" and jnp.zeros((), float).dtype != jnp.float64:
        raise ValueError("dtype 'float64' needs jax.config.update('jax_enable_x64', True) first")
    if row_tile < 1:
        raise ValueError(f"row_tile must be at least 1, got {row_tile}")
    kept = jnp.dtype("float32" if dtype == "int8" else dtype)
    checkpoint = load_checkpoint(resolve(name_or_path), dtype=kept)
    model = LanguageModel(Transformer(checkpoint.config, dtype=kept, row_tile=row_tile), checkpoint.params)
    if dtype == "int8":
        model = in_int8(model)
    return LoadedModel(model, checkpoint.tokenizer, str(name_or_path))
