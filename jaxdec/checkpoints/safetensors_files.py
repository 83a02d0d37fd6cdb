"""The tensors of a Hugging Face directory: one safetensors file, or several with an index.

A file is its header's length u64, a JSON header (``{name: {"dtype", "shape", "data_offsets"}}``) and the tensors
(https://github.com/huggingface/safetensors). The library checks each file when it is opened; the tensors are then read one
by one, bfloat16 included, which the library gives to NumPy only by way of another framework and its accelerator.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from jaxdec.checkpoints.files import PICKLES, read_array
from jaxdec.errors import CheckpointError
from jaxdec.json_files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IGNORED = ".rotary_emb.inv_freq"  # old Llama checkpoints store what follows from the config


class _Place(NamedTuple):
    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


class SafetensorsFiles:
    """A :class:`jaxdec.checkpoints.param_layout.TensorStore` over the weights of a Hugging Face directory.

    Args:
      folder: the directory.
      tie_embeddings: the config says that the output head is the embedding table. A head that is stored all the same must
        equal it.

    Raises:
      CheckpointError: no weights, pickled weights, a file that is missing, cut short or corrupt, a type that is no floating
        type of ours, or a stored head that contradicts ``tie_embeddings``.
    """

    def __init__(self, folder: Path, tie_embeddings: bool):
        self._places: dict[str, _Place] = {}
        for name in weight_files(folder):
            self._places |= _open(folder / name)
        if tie_embeddings and HEAD in self._places:
            if EMBEDDING in self._places and not np.array_equal(self.read(HEAD), self.read(EMBEDDING)):
                raise CheckpointError(
                    f"config.json sets tie_word_embeddings, and the stored {HEAD} differs from {EMBEDDING}: set it to false to "
                    "use the stored head"
                )
            del self._places[HEAD]

    def stored_name(self, name: str) -> str:
        """Hugging Face names are our names."""
        return name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors."""
        return {name: place.shape for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """Read a tensor in the type it is stored in."""
        path, dtype, shape, offset = self._places[name]
        return read_array(path, dtype, math.prod(shape), offset).reshape(shape)


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files of ``folder``.

    Raises:
      CheckpointError: none, only pickles, or an index that is malformed or lists a file that is missing.
    """
    if (folder / SINGLE).exists():
        return [SINGLE]
    if (folder / INDEX).exists():
        weights = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weights, dict) or not weights:
            raise CheckpointError(f"{INDEX} has no weight_map")
        names = sorted({str(name) for name in weights.values()})
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"{INDEX} lists {name!r}, which is not the name of a file beside it")
            if not (folder / name).exists():
                raise CheckpointError(f"{name} is listed in {INDEX} and missing")
        return names
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"weights are pickled ({pickles[0]}): reading a pickle runs the code in it. Convert them to safetensors"
        )
    raise CheckpointError(f"no {SINGLE} and no {INDEX}")


def _open(path: Path) -> dict[str, _Place]:
    """Check a file and return where its tensors are."""
    try:
        safetensors.safe_open(path, framework="np")  # checks the header, and that the tensors fill the file
        with open(path, "rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(begin - 8))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} is cut short or corrupt: {error}") from None
    places = {}
    for name, entry in header.items():
        if name == "__metadata__" or name.endswith(IGNORED):
            continue
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"tensor {name} of {path.name} is stored as {entry['dtype']}; supported: {', '.join(DTYPES)}"
            )
        dtype = np.dtype(DTYPES[entry["dtype"]])
        places[name] = _Place(path, dtype, tuple(entry["shape"]), begin + entry["data_offsets"][0])
    return places
