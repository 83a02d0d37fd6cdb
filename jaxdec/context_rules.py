"""Rules that read or keep less of a long context, as users ask for them: ``"quest:budget=1024,page_size=16"``."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.chunked_prefill import ChunkedPrefill
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.kv_quantization import Quantized
from jaxdec.attention.sparse.quest import Quest
from jaxdec.attention.sparse.snapkv import SnapKV
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from jaxdec.attention.sparse.zipvl import ZipVL, ZipVLCache
from jaxdec.decoding.context_rules import ContextRules
from jaxdec.decoding.state import Prompt, bucket

ATTENTION_RULES: Mapping[str, Any] = {
    "dense": None,
    "block_sparse": BlockSparse,
    "vertical_slash": VerticalSlash,
    "flex_prefill": FlexPrefill,
    "zipvl": ZipVL,
    "quest": Quest,
    "actqkv": ActQKV,
    "video_xl2": ChunkedPrefill,
}
"""What ``attention`` may be; the values are classes, whose fields are the options."""
KV_CACHE_RULES: Mapping[str, Any] = {
    "full": None,
    "snapkv": SnapKV,
    "ada_snapkv": AdaSnapKV,
    "quantized": Quantized,
    "zipvl": ZipVLCache,
}
"""What ``kv_cache`` may be."""
READERS = {int: int, float: float, str: str, bool: lambda text: {"true": True, "false": False}[text.lower()]}


def attention_rule(asked: Any) -> Any:
    """The rule that a text such as ``"vertical_slash:vertical=128,slash=128"`` names; rule objects pass. None is ``"dense"``.

    Raises:
      ValueError: an unknown name, an option that the rule does not have, or a value that it refuses.
    """
    return _rule("attention", asked, ATTENTION_RULES)


def kv_cache_rule(asked: Any) -> Any:
    """The rule that a text such as ``"snapkv:capacity=1024"`` names; rule objects pass. None is ``"full"``.

    Raises:
      ValueError: see :func:`attention_rule`.
    """
    return _rule("kv_cache", asked, KV_CACHE_RULES)


def with_rules(prompt: Prompt, attention: Any = None, kv_cache: Any = None) -> Prompt:
    """The batch, to be decoded by rules.

    Args:
      prompt: the batch, which shares no prefixes and has no pages.
      attention: what is read: a text or an object, see :func:`attention_rule`.
      kv_cache: what is kept, and in how many bits, see :func:`kv_cache_rule`.

    Raises:
      ValueError: rules that there are not or that do not go together, prompts too short for one, shared prefixes or pages.
    """
    attention, kv_cache = attention_rule(attention), kv_cache_rule(kv_cache)
    if attention is None and kv_cache is None:
        return prompt.replace(rules=None)
    if prompt.sharing is not None:
        raise ValueError("share_prefixes must be False where attention or kv_cache has a rule: rows are fed one by one")
    if prompt.paging is not None:
        raise ValueError("kv_layout must be contiguous where attention or kv_cache has a rule, got paged")
    new_tokens = bucket(int(np.max(np.asarray(prompt.max_new_tokens))), smallest=64)
    rules = ContextRules(attention, kv_cache, prompt.capacity, new_tokens)
    rules.check_tokens(prompt.tokens.shape[1])
    return prompt.replace(rules=rules)


def _rule(argument: str, asked: Any, rules: Mapping[str, Any]) -> Any:
    if asked is None:
        return None
    if not isinstance(asked, str):
        if not isinstance(asked, tuple(filter(None, rules.values()))):
            raise ValueError(
                f"{argument} must be one of {', '.join(rules)}, or an object of their classes; got {asked!r}"
            )
        return asked
    name, _, text = asked.partition(":")
    if name not in rules:
        raise ValueError(f"{argument} must be one of {', '.join(rules)}, got {name!r}")
    kind = rules[name]
    fields = {} if kind is None else {field.name: field for field in dataclasses.fields(kind)}
    options = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in fields:
            known = f"its options are {', '.join(fields)}" if fields else "it has no options"
            raise ValueError(f"{argument} {name!r} cannot have {part!r}: {known}")
        options[key] = _value(f"{argument} {name!r}: {key}", value, fields[key].type)
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in options:
            raise ValueError(f"{argument} {name!r} needs {key}, for example {name}:{key}=1024")
    return None if kind is None else kind(**options)


def _value(what: str, text: str, kind: Any) -> Any:
    """The value of an option; of several types the first that can read it."""
    kinds = [kind] if isinstance(kind, type) else [one for one in kind.__args__ if one is not type(None)]
    for one in kinds:
        try:
            return READERS[one](text)
        except (ValueError, KeyError):
            continue
    raise ValueError(f"{what} must be {' or '.join(one.__name__ for one in kinds)}, got {text!r}")
