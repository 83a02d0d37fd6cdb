"""Files of prompts: what is read and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.prompts import PromptFileError, append_line, finished_ids, is_text, read_prompts


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.jsonl"


def test_texts_messages_ids_and_blank_lines(path):
    messages = [{"role": "user", "content": "b"}]
    lines = ['{"prompt": "a"}', "", "  ", json.dumps({"messages": messages, "id": "x"}), '{"prompt": "c", "id": 7}']
    path.write_text("\r\n".join([*lines, '{"prompt": "d"}']))
    read = read_prompts(path)
    assert read == [
        {"id": 0, "prompt": "a"},
        {"id": "x", "prompt": messages},
        {"id": 7, "prompt": "c"},
        {"id": 3, "prompt": "d"},
    ]


def test_only_a_newline_ends_a_line(path):
    text = "a\u2028b\x85c\x0bd\x0ce"  # all of which end a line for str.splitlines
    path.write_text(json.dumps({"prompt": text}, ensure_ascii=False), encoding="utf-8")
    assert read_prompts(path) == [{"id": 0, "prompt": text}]


def test_utf8_whatever_the_locale_and_a_byte_order_mark(path):
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": "ä\U0001f600"}, ensure_ascii=False).encode())
    assert read_prompts(path)[0]["prompt"] == "ä\U0001f600"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds no prompt"),
        (b"\n \n", "it holds no prompt"),
        (b'{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
        (b'"a"', "line 1 must be an object with one of 'prompt' and 'messages'"),
        (b'{"text": "a"}', "line 1 must be an object"),
        (b'{"prompt": "a", "messages": [{}]}', "line 1 must be an object"),
        (b'{"prompt": ""}', "'prompt' must be a non-empty text"),
        (b'{"prompt": ["a"]}', "'prompt' must be a non-empty text"),
        (b'{"messages": []}', "'messages' a non-empty list"),
        (b'{"messages": "a"}', "'messages' a non-empty list"),
        (b'{"prompt": "a", "id": 1}\n{"prompt": "b"}', "line 2: id 1 was used in line 1"),
        (b'{"prompt": "a", "id": "x"}\n\n{"prompt": "b", "id": "x"}', "line 3: id 'x' was used in line 1"),
        (b'{"prompt": "a", "id": [1]}', "'id' must be a text or an integer, got [1]"),
        (b'{"prompt": "a", "id": true}', "'id' must be a text or an integer, got True"),
        (b'{"prompt": "a", "id": 1.0}', "'id' must be a text or an integer, got 1.0"),
        (b'{"prompt": "a", "id": null}', "'id' must be a text or an integer, got None"),
        (b'{"prompt": "\xff"}', "it is not UTF-8"),
        (b'{"prompt": "\\ud800"}', "line 1 holds half a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "\\udfff"}]}', "line 1 holds half a surrogate pair"),
    ],
)
def test_bad_files_are_named_errors(path, content, message):
    path.write_bytes(content)
    with pytest.raises(PromptFileError) as error:
        read_prompts(path)
    assert message in str(error.value)


def test_a_missing_prompt_file(path):
    with pytest.raises(FileNotFoundError):
        read_prompts(path)


def test_no_answers_yet(path):
    assert finished_ids(path) == set()
    assert not path.exists()


@settings(max_examples=40)
@given(
    ids=st.lists(st.integers() | st.text(st.characters(codec="utf-8")), unique=True, min_size=1, max_size=4),
    text=st.text(st.characters(codec="utf-8")),
    data=st.data(),
)
def test_any_interruption_of_a_write_loses_that_answer_only(tmp_path_factory, ids, text, data):
    path = tmp_path_factory.mktemp("answers") / "out.jsonl"
    sizes = [0]
    for identifier in ids:
        append_line(path, {"text": text, "id": identifier})
        sizes.append(path.stat().st_size)
    cut = data.draw(st.integers(0, sizes[-1]), label="bytes that reached the disk")
    path.write_bytes(path.read_bytes()[:cut])
    # An answer is whole when only its line end is missing.
    whole = sum(size - 1 <= cut for size in sizes[1:])
    assert finished_ids(path) == set(ids[:whole])
    assert path.stat().st_size == sizes[whole]
    for identifier in ids[whole:]:
        append_line(path, {"text": text, "id": identifier})
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == [{"id": i, "text": text} for i in ids]


def test_interrupted_answers_do_not_count(path):
    append_line(path, {"id": "a", "finish_reason": "length"})
    append_line(path, {"id": "b", "finish_reason": "interrupted"})
    assert finished_ids(path) == {"a"}


@pytest.mark.parametrize(
    "content", ["a diary\nwithout", "a diary", '{"id": 1}\n{"text": "no id"}\n', '{"id": {}}\n', "[1]\n"]
)
def test_a_file_of_somebody_else_is_left_alone(path, content):
    path.write_text(content)
    with pytest.raises(PromptFileError, match=r"line \d is no answer with an 'id'"):
        finished_ids(path)
    assert path.read_text() == content


def test_answers_that_are_not_utf8(path):
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(PromptFileError, match="line 1 is no answer"):
        finished_ids(path)


def test_is_text():
    assert is_text("ä\U0001f600")
    assert not is_text("\udcff")
