"""Scalars for TensorBoard, without TensorFlow or TensorBoard.

An event file is a series of TFRecords, each an ``Event`` message of Protocol Buffers: a wall time, a step, and a summary of
tagged numbers. Both formats are small and have not changed since 2015 (TensorBoard's event.proto and summary.proto,
TensorFlow's record_writer.h), so the few fields that are needed are written here:

    record = length u64 | masked crc32c(length) u32 | data | masked crc32c(data) u32          all little-endian
    mask(c) = (c rotated right by 15 bits) + 0xa282ead8
"""

import functools
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CASTAGNOLI = 0x82F63B78
"""The polynomial of CRC-32C, its bits reversed."""


class EventFile:
    """An event file that grows; a context manager."""

    def __init__(self, folder: Path, first_step: int = 0):
        """Begin a file in ``folder``, which is made where there is none.

        Args:
          folder: where TensorBoard looks.
          first_step: TensorBoard forgets what files before this one say of this step and later ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / f"events.out.tfevents.{time.time_ns() // 1000}.{os.getpid()}", "wb")  # noqa: SIM115
        self._append(0, _text(3, b"brain.Event:2"))
        self._append(first_step, _text(7, _varint(1, 1)))  # SessionLog.START

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by their tags."""
        entries = [_text(1, _text(1, tag.encode()) + _float(2, value)) for tag, value in values.items()]
        self._append(step, _text(5, b"".join(entries)))

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.close()

    def _append(self, step: int, what: bytes) -> None:
        self._file.write(record(_double(1, time.time()) + _varint(2, step) + what))
        self._file.flush()


def record(data: bytes) -> bytes:
    """Frame ``data`` as a TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecords hold it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@functools.cache
def _table() -> list[int]:
    table = []
    for crc in range(256):
        remainder = crc
        for _ in range(8):
            remainder = (remainder >> 1) ^ (CASTAGNOLI if remainder & 1 else 0)
        table.append(remainder)
    return table


def _number(value: int) -> bytes:
    """A variable-length whole number: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _double(field: int, value: float) -> bytes:
    return _number(field << 3 | 1) + struct.pack("<d", value)


def _text(field: int, value: bytes) -> bytes:
    """Bytes, a text or a message."""
    return _number(field << 3 | 2) + _number(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _number(field << 3 | 5) + struct.pack("<f", value)
