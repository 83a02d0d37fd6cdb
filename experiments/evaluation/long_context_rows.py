"""What the suite ``long_context`` compares: rules that read or keep less of the context, each under a name that stays."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """One rule, or none.

    Attributes:
      name: stays the same, so that results can be compared.
      attention: what is read, as :func:`jaxdec.context_rules.attention_rule` takes it.
      kv_cache: what is kept, as :func:`jaxdec.context_rules.kv_cache_rule` takes it.
      phase: where it saves: ``"prefill"``, ``"decode"`` (reading) or ``"cache"`` (keeping).
    """

    name: str
    attention: str | None
    kv_cache: str | None
    phase: str


WINDOW = "window=64,local=32"
"""The question behind the text is about as long; published windows are for questions of hundreds of tokens."""
ROWS = (
    Row("dense", None, None, ""),
    Row("block_sparse", "block_sparse:top_blocks=16", None, "prefill"),
    Row("vertical_slash", f"vertical_slash:vertical=96,slash=96,tile=32,{WINDOW}", None, "prefill"),
    Row("flex_prefill", f"flex_prefill:alpha=0.8,min_budget=64,tile=32,{WINDOW}", None, "prefill"),
    Row("zipvl", "zipvl", None, "prefill"),
    Row("video_xl2", "video_xl2:chunk=128,previous=1,prefix=4,suffix=64", None, "prefill"),
    Row("quest", "quest:budget=256", None, "decode"),
    Row("actqkv", "actqkv:block_size=16,sinks=16,local=128,window=128,top_blocks=6", None, "decode"),
    Row("snapkv", None, f"snapkv:capacity=256,{WINDOW}", "cache"),
    Row("ada_snapkv", None, f"ada_snapkv:capacity=256,{WINDOW}", "cache"),
    Row("int8", None, "quantized:bits=8", "cache"),
    Row("int4", None, "quantized:bits=4", "cache"),
    Row("int2", None, "quantized:bits=2", "cache"),
    Row("int2_keys4", None, "quantized:bits=2,key_bits=4", "cache"),
    Row("zipvl_cache", None, "zipvl", "cache"),
    Row("zipvl_cache_keys4", None, "zipvl:coarse_key_bits=4", "cache"),
)
SMOKE_ROWS = (
    Row("dense", None, None, ""),
    Row("vertical_slash", "vertical_slash:vertical=16,slash=16,window=8,local=8,tile=16", None, "prefill"),
    Row("quest", "quest:budget=32", None, "decode"),
    Row("snapkv", None, "snapkv:capacity=32,window=16,local=8", "cache"),
    Row("int4", None, "quantized:bits=4,window=16", "cache"),
)
"""Of a smoke run: one of each kind, for short prompts."""
REFERENCE = "dense"
