"""Tokens shown one by one: put together they are the text, and what cannot be seen is named."""

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from experiments.token_pieces import Piece, Segment, pieces, segments, token_bytes
from jaxdec.tokenizers import Tokenizer
from tests.tiny_text import NUM_TOKENS, byte_tokenizer

BYTES = byte_tokenizer()


@given(st.lists(st.integers(0, NUM_TOKENS - 1), max_size=12))
def test_pieces_of_any_bytes_are_the_text(ids):
    assert "".join(piece.text for piece in pieces(BYTES, ids)) == BYTES.decode(ids, skip_special_tokens=False)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_tokens_are_the_bytes_of_the_text(text):
    assert b"".join(token_bytes(BYTES, BYTES.encode(text))) == text.encode()


def test_parts_of_characters_are_named():
    ids = BYTES.encode("aé😀")
    assert pieces(BYTES, ids) == [
        Piece("a"),
        Piece("", "C3"),
        Piece("é", "A9"),
        Piece("", "F0"),
        Piece("", "9F"),
        Piece("", "98"),
        Piece("😀", "80"),
    ]
    assert pieces(BYTES, [257]) == [Piece("<|im_end|>")]


def test_sentencepiece_tokens():
    vocabulary = {"<unk>": 0, "▁the": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4, "b": 5}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = Tokenizer(backend, eos_token_ids=())
    ids = [1, 4, 2, 3, 5]
    assert token_bytes(tokenizer, ids) == [b" the", b" ", b"\xc3", b"\xa9", b"b"]
    assert "".join(piece.text for piece in pieces(tokenizer, ids)) == tokenizer.decode(ids) == " the éb"


def test_what_has_no_shape_is_visible():
    assert segments(Piece("a b\t\nc\x1b\r")) == [
        Segment("text", "a"),
        Segment("space", " "),
        Segment("text", "b"),
        Segment("tab", "\t"),
        Segment("newline", "\n"),
        Segment("text", "c"),
        Segment("bytes", "1B"),
        Segment("bytes", "0D"),
    ]
    assert segments(Piece("é", "A9")) == [Segment("bytes", "A9"), Segment("text", "é")]


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], include_characters=" \n\t"), max_size=10))
def test_segments_keep_what_can_be_seen(text):
    assert "".join(segment.text for segment in segments(Piece(text))) == text
