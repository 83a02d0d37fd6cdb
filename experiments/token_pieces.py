"""What single tokens stand for, so that a reader sees it: whole characters as text, parts of characters as bytes."""

import codecs
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import decoders, pre_tokenizers

from jaxdec.tokenizers import Tokenizer

WHITE = {" ": "space", "\n": "newline", "\t": "tab"}
INVISIBLE = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}  # general categories that no font shows


class Piece(NamedTuple):
    """A token in a text.

    Attributes:
      text: the characters that it completes; put together, those of all tokens are the text.
      bytes: all its bytes in hexadecimal if they are not whole characters by themselves, else empty.
    """

    text: str
    bytes: str = ""


class Segment(NamedTuple):
    """A stretch of a piece: ``kind`` is ``text``, ``space``, ``newline``, ``tab`` or ``bytes``."""

    kind: str
    text: str


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    """One piece per token of a text. Bytes that never become a character are U+FFFD, as the tokenizer decodes them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    found = []
    for index, raw in enumerate(token_bytes(tokenizer, ids)):
        text = decoder.decode(raw, final=index == len(ids) - 1)
        try:
            raw.decode()
            found.append(Piece(text))
        except UnicodeDecodeError:
            found.append(Piece(text, raw.hex(" ").upper()))
    return found


def token_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
    """The bytes that each token stands for: of byte-level vocabularies, and of SentencePiece's with ``<0xNN>`` tokens."""
    names = [tokenizer.backend.id_to_token(token) for token in ids]
    if isinstance(tokenizer.backend.decoder, decoders.ByteLevel):
        alphabet = _byte_alphabet()
        return [
            bytes(map(alphabet.__getitem__, name)) if set(name) <= set(alphabet) else name.encode()
            for name in (name or "" for name in names)
        ]
    found = []
    for name in (name or "" for name in names):
        byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", name)
        found.append(bytes.fromhex(byte[1]) if byte else name.replace("▁", " ").encode())
    return found


def segments(piece: Piece) -> list[Segment]:
    """Cut a piece into what is shown differently; what has no shape of its own is named by its bytes."""
    found = [Segment("bytes", piece.bytes)] if piece.bytes else []
    for run in re.findall(r"[^\S ]| |\S+", piece.text):
        if run in WHITE:
            found.append(Segment(WHITE[run], run))
            continue
        for char in run:
            if unicodedata.category(char) in INVISIBLE:
                found.append(Segment("bytes", char.encode("utf-8", "replace").hex(" ").upper()))
            elif found and found[-1].kind == "text":
                found[-1] = Segment("text", found[-1].text + char)
            else:
                found.append(Segment("text", char))
    return found


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others take the characters from U+0100 on, in turn."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    printable = [byte for byte in range(256) if chr(byte) in alphabet]
    others = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
