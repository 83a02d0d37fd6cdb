"""What we set out to reach on the processor, and whether a result reaches it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Document = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Target:
    """One number to reach.

    Attributes:
      name: what is compared.
      bound: the number.
      at_least: whether more is better.
      measure: takes it out of a result; raises ``LookupError`` where the result lacks it.
      applies: takes a result, returns why the target makes no sense there, or an empty string.
    """

    name: str
    bound: float
    at_least: bool
    measure: Callable[[Document], float]
    applies: Callable[[Document], str] = lambda document: ""


def find(document: Document, case: str, side: str) -> Mapping[str, Any]:
    """The row of a case and side.

    Raises:
      LookupError: there is none.
    """
    for row in document["rows"]:
        if (row["case"], row["side"]) == (case, side):
            return row
    raise LookupError(f"no row for {case} on {side}")


def median(document: Document, case: str, side: str, metric: str) -> float:
    """Median of a metric of a row."""
    return find(document, case, side)["metrics"][metric]["median"]


def _ratio(case: str, side: str, other: str) -> Callable[[Document], float]:
    def measure(document: Document) -> float:
        find(document, case, other)
        return find(document, case, side)["ratios"][other]["median"]

    return measure


def way_to_bfloat16(document: Document) -> float:
    """How far our bfloat16 prefill goes from our float32 to PyTorch's bfloat16: ``(b - a) / (p - a)``."""
    a, b, p = _prefill_rates(document)
    return (b - a) / (p - a)


def _bfloat16_pays(document: Document) -> str:
    a, _, p = _prefill_rates(document)
    return "" if p > a else "PyTorch's bfloat16 is slower than our float32 here"


def _prefill_rates(document: Document) -> list[float]:
    ours_and_theirs = ("jaxdec-float32", "jaxdec-bfloat16", "transformers-bfloat16")
    return [median(document, "prefill", side, "tokens_per_second") for side in ours_and_theirs]


TARGETS = (
    Target(
        "decoding, float32: ours / transformers",
        2.0,
        True,
        _ratio("decode", "jaxdec-float32", "transformers-float32"),
    ),
    Target("prefill: ours float32 / llama.cpp", 1.3, True, _ratio("prefill", "jaxdec-float32", "llama.cpp")),
    Target(
        "prefill, float32: ours / transformers",
        1.0,
        True,
        _ratio("prefill", "jaxdec-float32", "transformers-float32"),
    ),
    Target(
        "prefill, bfloat16: share of the way from our float32 to PyTorch's bfloat16",
        0.7,
        True,
        way_to_bfloat16,
        _bfloat16_pays,
    ),
    Target(
        "one-token step, float32 / reading the weights once",
        1.3,
        False,
        lambda document: median(document, "step_cost", "jaxdec-float32", "step_over_floor"),
    ),
    Target(
        "cold start to the first text, seconds",
        10.0,
        False,
        lambda document: median(document, "cold_start", "command", "first_text_seconds"),
    ),
    Target(
        "peak memory of the command / float32 weights",
        2.5,
        False,
        lambda document: (
            median(document, "cold_start", "command", "peak_rss_bytes") / document["model"]["weights_bytes"]
        ),
    ),
)


def judge(document: Document) -> list[dict[str, Any]]:
    """Hold a result against all targets; ``measured`` and ``reached`` are None where it cannot be told, with the reason."""
    verdicts = []
    for target in TARGETS:
        verdict = {"name": target.name, "bound": target.bound, "at_least": target.at_least, "reason": ""}
        measured = reached = None
        try:
            verdict["reason"] = target.applies(document)
            if not verdict["reason"]:
                measured = target.measure(document)
                reached = measured >= target.bound if target.at_least else measured <= target.bound
        except LookupError as error:
            verdict["reason"] = f"not measured ({error})"
        verdicts.append({**verdict, "measured": measured, "reached": reached})
    return verdicts
