"""What is compared: rules for prompts, and rules for the cache."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdec.attention.sparse.kv_quantization import Quantized
from jaxdec.attention.sparse.zipvl import ZipVL, ZipVLCache

DENSE = "dense"
HALF = "int4/int2, half"
DYNAMIC = "int4/int2, dynamic"
KEYS = "int4/int2, half, all keys int4"
"""As :data:`HALF`, but keys of unimportant tokens keep four bits too: their errors stand in exponents, those of values average
out. Not in the paper."""
EXTREMES = ", by extremes"
"""Ranges from the least to the greatest value, as published; those of the other arms are fitted."""
Rules = Mapping[str, object]


def dynamic(threshold: float) -> str:
    """Name of the published rule."""
    return f"dynamic {threshold:g}"


def attention_arms(thresholds: Sequence[float], last: int, drawn: int) -> dict[str, Rules]:
    """The published rule at several thresholds, and at the middle one what the paper varies."""
    arms: dict[str, Rules] = {DENSE: {}}
    arms |= {dynamic(threshold): {"attention": ZipVL(threshold, last, drawn)} for threshold in thresholds}
    middle = thresholds[len(thresholds) // 2]
    both = last + drawn
    arms["by attention received"] = {"attention": ZipVL(middle, last, drawn, by_received=True)}
    arms["last probes alone"] = {"attention": ZipVL(middle, both, 0)}
    arms["drawn probes alone"] = {"attention": ZipVL(middle, 0, both)}
    return arms


def fixed_arm(ratio: float, last: int, drawn: int) -> Rules:
    """As many important tokens in every layer and text."""
    return {"attention": ZipVL(ratio=ratio, last_probes=last, random_probes=drawn)}


def cache_arms(threshold: float, last: int, drawn: int, window: int) -> dict[str, Rules]:
    """The cache in one precision, and in two; some with ranges by :data:`EXTREMES` too."""
    arms: dict[str, Rules] = {f"int{bits}": {"kv_cache": Quantized(bits, window, fitted=True)} for bits in (8, 4, 2)}
    two: dict[str, Any] = {"last_probes": last, "random_probes": drawn, "window": window}
    arms[DYNAMIC] = {"kv_cache": ZipVLCache(threshold, **two)}
    arms[HALF] = {"kv_cache": ZipVLCache(ratio=0.5, **two)}
    arms[KEYS] = {"kv_cache": ZipVLCache(ratio=0.5, coarse_key_bits=4, **two)}
    arms["int8/int4, half"] = {"kv_cache": ZipVLCache(ratio=0.5, bits=8, coarse_bits=4, **two)}
    for bits in (4, 2):
        arms[f"int{bits}{EXTREMES}"] = {"kv_cache": Quantized(bits, window, fitted=False)}
    arms[f"{HALF}{EXTREMES}"] = {"kv_cache": ZipVLCache(ratio=0.5, fitted=False, **two)}
    return arms
