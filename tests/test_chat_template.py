"""Chat templates: the conventions they rely on, and what an untrusted one cannot do."""

import dataclasses
import datetime
import json
from pathlib import Path

import pytest

from jaxdec.chat_template import render_chat
from jaxdec.generation import encode_prompt
from tests.real_model import real_model
from tests.tiny_text import byte_tokenizer

HI = [{"role": "user", "content": "Hi"}]


def render(template, messages=HI, add_generation_prompt=True, **changes):
    return render_chat(dataclasses.replace(byte_tokenizer(template), **changes), messages, add_generation_prompt)


def test_messages_and_the_opening_of_the_answer():
    template = "{% for m in messages %}[{{ m.role }}] {{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    talk = [*HI, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    assert render(template, talk) == "[user] Hi\n[assistant] Hello.\n[user] Bye\n[assistant]"
    assert render(template, talk, add_generation_prompt=False) == "[user] Hi\n[assistant] Hello.\n[user] Bye\n"


def test_blocks_take_their_line_with_them():
    """``trim_blocks`` and ``lstrip_blocks``, as templates are written for."""
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=True, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{% for m in 'abc' %}{% if m == 'b' %}{% break %}{% endif %}{{ m }}{% endfor %}", "a"),
        ("x{% generation %}{{ messages[0].content }}{% endgeneration %}y", "xHiy"),
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        ("{{ messages[0].name }}", "Ann"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}", "3"),
    ],
)
def test_conventions_of_hugging_face_templates(template, expected):
    messages = [{"role": "user", "content": "Hi", "name": "Ann"}]
    assert render(template, messages, bos_token="<s>", eos_token="</s>") == expected


def test_templates_may_ask_for_the_date():
    assert render("{{ strftime_now('%Y') }}") in {
        str(datetime.datetime.now().year),
        str(datetime.datetime.now().year - 1),
    }


def test_templates_may_refuse_messages():
    with pytest.raises(ValueError, match="chat template refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{{ strftime_now.__globals__['datetime'] }}",
        "{{ (messages | attr('__class__')).__name__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template):
    messages = [dict(HI[0])]
    with pytest.raises(ValueError, match="the model's chat template"):
        render(template, messages)
    assert messages == HI


def test_forbidden_attributes_print_as_nothing():
    assert render("[{{ raise_exception.__globals__ }}{{ ''.__class__ }}{{ messages.__init__ }}]") == "[]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", "refused the messages: Expected an expression"),
        ("{{ nothing.at_all }}", "refused the messages: 'nothing' is undefined"),
        ("{{ 'a' + 1 }}", "failed: TypeError"),
        ("{{ 1 // 0 }}", "failed: ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed: RecursionError"),
        ("{{ raise_exception | tojson }}", "failed: TypeError"),
    ],
)
def test_errors_of_a_template_become_one_kind(template, message):
    with pytest.raises(ValueError, match=message):
        render(template)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        (["Hi"], r"messages\[0\] must have the keys 'role' and 'content', got 'Hi'"),
        ([*HI, {"role": "user"}], r"messages\[1\] must have the keys 'role' and 'content', got \{'role': 'user'\}"),
        ([{"role": "user", "content": None}], r"messages\[0\]\['content'\] must be a text, got None"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            r"\['content'\] must be a text, got \[\{'type'",
        ),
        ([{"role": 1, "content": "Hi"}], r"messages\[0\]\['role'\] must be a text, got 1"),
    ],
)
def test_malformed_messages_are_named(messages, message):
    with pytest.raises(ValueError, match=message):
        render("{{ messages }}", messages)


def test_a_model_without_a_template():
    with pytest.raises(ValueError, match="has no chat template: give a text and raw=True"):
        render(None)


@pytest.mark.model
def test_smollm2s_own_template():
    expected = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    assert render_chat(real_model().tokenizer, chat) == expected
    assert (
        render_chat(real_model().tokenizer, chat, add_generation_prompt=False)
        == expected[: -len("<|im_start|>assistant\n")]
    )


@pytest.mark.model
def test_prompts_of_the_golden_file_are_rendered_and_tokenized_alike():
    """Texts by transformers' ``apply_chat_template``, ids by llama.cpp."""
    entries = json.loads((Path(__file__).parent / "golden" / "smollm2_logits.json").read_text())["entries"]
    assert sum(entry["messages"] is not None for entry in entries) == 10
    for entry in entries:
        if entry["messages"]:
            assert render_chat(real_model().tokenizer, entry["messages"]) == entry["text"]
        prompt, raw = entry["messages"] or entry["text"], not entry["messages"]
        assert encode_prompt(real_model(), prompt, raw=raw) == entry["prompt"]
