"""Which rules a batch is decoded by that read or keep less than all of its context."""

import dataclasses
from typing import Any

from jaxdec.attention.dense import KEY_BLOCK
from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.attention.sparse.kv_quantization import Quantized
from jaxdec.attention.sparse.quest import Quest
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.attention.sparse.snapkv import SnapKV
from jaxdec.attention.sparse.zipvl import ZipVL, ZipVLCache


@dataclasses.dataclass(frozen=True)
class ContextRules:
    """A rule of attention, a rule of the cache, or both. Static under ``jit``.

    Attributes:
      attention: what is read: of prompts by a :class:`PrefillRule` or :class:`ZipVL`, while decoding by :class:`Quest`, of both
        by :class:`ActQKV`; None for everything.
      kv_cache: what is kept of prompts, by :class:`SnapKV` (or Ada-SnapKV), or in which precision, by :class:`Quantized` or
        :class:`ZipVLCache`; None for everything as it is.
      capacity: the prompt's when rules were given. What a method adds to that is room for drafts.
      new_tokens: that any row may generate, at least.
    """

    attention: Any
    kv_cache: Any
    capacity: int
    new_tokens: int

    def __post_init__(self):
        if self.attention is not None and not isinstance(self.attention, PrefillRule | Quest | ZipVL | ActQKV):
            raise ValueError(f"attention must be a rule of attention, got {self.attention!r}")
        if isinstance(self.attention, ZipVLCache) or not isinstance(
            self.kv_cache, SnapKV | Quantized | ZipVLCache | None
        ):
            raise ValueError(f"kv_cache must be a rule of the cache, got {self.kv_cache!r}")
        if isinstance(self.attention, Quest | ActQKV) and self.kv_cache is not None:
            name = type(self.attention).__name__.lower()
            raise ValueError(f"kv_cache must be full where attention is {name}, which keeps all; got {self.kv_cache!r}")
        if isinstance(self.attention, Quest) and KEY_BLOCK % self.attention.page_size:
            raise ValueError(f"page_size must divide {KEY_BLOCK}, got {self.attention.page_size}")

    def check_tokens(self, num_tokens: int):
        """Raise ValueError if prompts padded to ``num_tokens`` are too short for a rule."""
        for rule in (self.attention, self.kv_cache):
            if hasattr(rule, "check_tokens"):
                rule.check_tokens(num_tokens)
