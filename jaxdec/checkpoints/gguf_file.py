"""The GGUF container: header, metadata, and a table of quantised tensors.

Layout, little-endian (the ggml project's docs/gguf.md): ``GGUF``, version u32, number of tensors u64, number of metadata
pairs u64; the pairs (key, type u32, value); the tensor table (name, number of dimensions u32, dimensions u64 fastest first,
type u32, offset u64); padding to ``general.alignment``; the tensors. A string is its length u64 and UTF-8 bytes, an array its
item type u32, its length u64 and the items.

The header is parsed here, with every read checked against the end of the file: the ``gguf`` package's reader takes twenty
times as long on a large vocabulary and reads past the end of a damaged file without noticing. Block formats are the
package's: its type table and its ``dequantize``.
"""

import dataclasses
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from jaxdec.checkpoints.files import read_array
from jaxdec.errors import CheckpointError

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT_TYPES = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F64: np.float64}
ROWS_AT_ONCE = 4096  # of a tensor being dequantised: bounds what the package allocates on the way


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Place of one tensor.

    Attributes:
      shape: slowest dimension first, the NumPy order.
      kind: block format.
      begin: first byte in the file.
      end: byte behind the last one.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    begin: int
    end: int


class GGUFFile:
    """A GGUF file whose header has been read; tensors are read when asked for.

    Attributes:
      metadata: values by key; arrays are lists.
      tensors: places by name.

    Raises:
      CheckpointError: not a GGUF file, of an unknown version, cut short, or damaged. The message names the file.
    """

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            magic = file.read(4)
            if magic != b"GGUF":
                found = f"begins with {magic!r} instead of b'GGUF'" if magic else "is empty"
                raise CheckpointError(f"{path} is not a GGUF file: it {found}")
            header = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._path = path
        try:
            self._parse(_Cursor(header, position=4), len(header))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (_EndOfFile, struct.error):
            raise CheckpointError(f"{path} is cut short or corrupt: its header runs past the end of the file") from None
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is corrupt: its header holds text that is not UTF-8 ({error})") from None

    def dequantize(self, name: str) -> np.ndarray:
        """Return a tensor as float32 (float64 if stored so), in memory of its own.

        Raises:
          KeyError: no such tensor.
          CheckpointError: a block format that cannot be dequantised.
        """
        info = self.tensors[name]
        stored = read_array(self._path, np.uint8, info.end - info.begin, info.begin)
        if info.kind in FLOAT_TYPES:
            return stored.view(FLOAT_TYPES[info.kind]).reshape(info.shape)
        rows = stored.reshape(math.prod(info.shape[:-1]), -1)
        starts = range(0, len(rows), ROWS_AT_ONCE)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale is the caller's to notice
                pieces = [gguf.dequantize(rows[i : i + ROWS_AT_ONCE], info.kind) for i in starts]
        except NotImplementedError:
            raise CheckpointError(f"tensor {name} is stored as {info.kind.name}, which is not supported") from None
        return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces)).reshape(info.shape)

    def _parse(self, cursor: "_Cursor", file_size: int) -> None:
        version, num_tensors, num_pairs = cursor.scalar("I"), cursor.scalar("Q"), cursor.scalar("Q")
        if version not in VERSIONS:
            swapped = version & 0xFFFF == 0  # 3 read in the other byte order
            raise CheckpointError(
                "written on a big-endian machine, which is not supported"
                if swapped
                else f"GGUF version {version} is not supported; supported: {', '.join(map(str, VERSIONS))}"
            )
        self.metadata = {}
        for _ in range(num_pairs):
            key = cursor.string()
            if key in self.metadata:
                raise CheckpointError(f"metadata key {key} occurs twice")
            self.metadata[key] = cursor.value(cursor.scalar("I"), key)
        table = [self._tensor_entry(cursor) for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise CheckpointError(f"general.alignment must be a power of two, and is {alignment!r}")
        data = -(-cursor.position // alignment) * alignment
        self.tensors = {}
        for name, shape, kind, offset in table:
            if name in self.tensors:
                raise CheckpointError(f"tensor {name} occurs twice")
            begin, size = data + offset, _stored_bytes(name, shape, kind)
            if begin + size > file_size:
                raise CheckpointError(f"cut short: tensor {name} ends at byte {begin + size}, the file at {file_size}")
            self.tensors[name] = TensorInfo(shape, kind, begin, begin + size)

    @staticmethod
    def _tensor_entry(cursor: "_Cursor") -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name, num_dimensions = cursor.string(), cursor.scalar("I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise CheckpointError(f"tensor {name} has {num_dimensions} dimensions, allowed are 1 to {MAX_DIMENSIONS}")
        shape = tuple(cursor.scalar("Q") for _ in range(num_dimensions))[::-1]
        number, offset = cursor.scalar("I"), cursor.scalar("Q")
        try:
            return name, shape, gguf.GGMLQuantizationType(number), offset
        except ValueError:
            raise CheckpointError(f"tensor {name} is stored as type {number}, which is not known") from None


def _stored_bytes(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise CheckpointError(
            f"tensor {name} has shape {shape}, whose rows are not whole blocks of {block} ({kind.name})"
        )
    return math.prod(shape) // block * block_bytes


class _EndOfFile(Exception):
    """A read past the end."""


class _Cursor:
    """Reads values one behind the other, never past the end of ``data``."""

    def __init__(self, data: mmap.mmap, position: int):
        self._data = data
        self.position = position

    def scalar(self, code: str) -> Any:
        layout = "<" + code
        (value,) = struct.unpack_from(layout, self._data, self.position)  # struct.error past the end
        self.position += struct.calcsize(layout)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        end = self.position + length
        if end > len(self._data):
            raise _EndOfFile
        text = self._data[self.position : end].decode()
        self.position = end
        return text

    def value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise CheckpointError(f"metadata key {key} has type {kind}, which is not known")
        item, length = self.scalar("I"), self.scalar("Q")
        if item == STRING:
            if self.position + 8 * length > len(self._data):  # each string takes eight bytes at least
                raise _EndOfFile
            return [self.string() for _ in range(length)]
        if item not in SCALARS:
            raise CheckpointError(f"metadata key {key} is an array of type {item}, which is not supported")
        dtype = np.dtype("<" + SCALARS[item])
        end = self.position + dtype.itemsize * length
        if end > len(self._data):
            raise _EndOfFile
        numbers = np.frombuffer(self._data, dtype, length, self.position).tolist()
        self.position = end
        return numbers
