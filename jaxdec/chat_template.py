"""Chat templates, rendered with jinja2 in its immutable sandbox: a template comes with the weights, and is not trusted."""

import datetime
import json
from collections.abc import Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxdec.tokenizers import Tokenizer


def render_chat(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Write a conversation in the model's own format.

    Args:
      tokenizer: its ``chat_template`` is used, with the Hugging Face conventions (``raise_exception``, ``tojson``,
        ``strftime_now``, ``bos_token``, ``eos_token``).
      messages: ``{"role": ..., "content": ...}`` in order.
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
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    try:
        return environment.from_string(tokenizer.chat_template).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the model's chat template refused the messages: {error}") from error


def _refuse(message: str):
    raise jinja2.TemplateError(message)
