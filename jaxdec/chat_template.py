"""Chat templates, rendered with jinja2 in its immutable sandbox: a template comes with the weights, and is not trusted."""

import datetime
import json
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxdec.tokenizers import Tokenizer


def render_chat(tokenizer: Tokenizer, messages: Sequence[Any], add_generation_prompt: bool = True) -> str:
    """Write a conversation in the model's own format.

    Args:
      tokenizer: its ``chat_template`` is used, with the Hugging Face conventions (``raise_exception``, ``tojson``,
        ``strftime_now``, ``{% generation %}``, ``bos_token``, ``eos_token``; no tools and no documents).
      messages: ``{"role": ..., "content": ...}`` in order, both texts; further keys are passed on.
      add_generation_prompt: end with the opening of the assistant's turn.

    Raises:
      ValueError: no template, malformed messages, or a template that fails or refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise ValueError("this model has no chat template: give a text and raw=True")
    if not messages:
        raise ValueError("messages is empty: give at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError(f"messages[{index}] must have the keys 'role' and 'content', got {message!r}")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise ValueError(f"messages[{index}][{key!r}] must be a text, got {message[key]!r}")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    try:
        return environment.from_string(tokenizer.chat_template).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            tools=None,
            documents=None,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the model's chat template refused the messages: {error}") from error
    except Exception as error:  # a template is a program: 'a' + 1 is a TypeError of its own
        raise ValueError(f"the model's chat template failed: {type(error).__name__}: {error}") from error


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As in transformers: unlike jinja2's own filter, it does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
