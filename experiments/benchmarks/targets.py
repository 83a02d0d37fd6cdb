"""What we set out to reach on the processor, and whether a result reaches it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Target:
    """One number to reach.

    Attributes:
      name: what is compared.
      bound: the number.
      at_least: whether more is better.
      rows: ``(case, side)`` of the rows it is measured from; without one of them it is not measured.
      measure: takes these rows and the whole result, returns the number.
      applies: takes the same, returns why the target makes no sense here, or an empty string.
    """

    name: str
    bound: float
    at_least: bool
    rows: tuple[tuple[str, str], ...]
    measure: Callable[[Rows, Document], float]
    applies: Callable[[Rows, Document], str] = lambda rows, document: ""


def median(row: Mapping[str, Any], metric: str) -> float:
    """Median of a metric of a row."""
    return row["metrics"][metric]["median"]


def ratio(rows: Rows, document: Document) -> float:
    """Median over the rounds of the first row's metric over the second's."""
    return rows[0]["ratios"][rows[1]["side"]]["median"]


def way_to_bfloat16(rows: Rows, document: Document) -> float:
    """How far our bfloat16 prefill goes from our float32 to PyTorch's bfloat16: ``(b - a) / (p - a)``."""
    a, b, p = (median(row, "tokens_per_second") for row in rows)
    return (b - a) / (p - a)


def _bfloat16_pays(rows: Rows, document: Document) -> str:
    a, _, p = (median(row, "tokens_per_second") for row in rows)
    return "" if p > a else "PyTorch's bfloat16 is slower than our float32 here"


TARGETS = (
    Target(
        "decoding, float32: ours / transformers",
        2.0,
        True,
        (("decode", "jaxdec-float32"), ("decode", "transformers-float32")),
        ratio,
    ),
    Target(
        "prefill: ours float32 / llama.cpp",
        1.3,
        True,
        (("prefill", "jaxdec-float32"), ("prefill", "llama.cpp")),
        ratio,
    ),
    Target(
        "prefill, float32: ours / transformers",
        1.0,
        True,
        (("prefill", "jaxdec-float32"), ("prefill", "transformers-float32")),
        ratio,
    ),
    Target(
        "prefill, bfloat16: share of the way from our float32 to PyTorch's bfloat16",
        0.7,
        True,
        (("prefill", "jaxdec-float32"), ("prefill", "jaxdec-bfloat16"), ("prefill", "transformers-bfloat16")),
        way_to_bfloat16,
        _bfloat16_pays,
    ),
    Target(
        "one-token step, float32 / reading the weights once",
        1.3,
        False,
        (("step_cost", "jaxdec-float32"),),
        lambda rows, document: median(rows[0], "step_over_floor"),
    ),
    Target(
        "cold start to the first text, seconds",
        10.0,
        False,
        (("cold_start", "command"),),
        lambda rows, document: median(rows[0], "first_text_seconds"),
    ),
    Target(
        "peak memory of the command / float32 weights",
        2.5,
        False,
        (("cold_start", "command"),),
        lambda rows, document: median(rows[0], "peak_rss_bytes") / document["model"]["weights_bytes"],
    ),
)


def judge(document: Document, targets: Sequence[Target] = TARGETS) -> list[dict[str, Any]]:
    """Hold a result against all targets.

    Returns:
      A verdict each: ``measured`` and ``reached`` are None where it cannot be told, with the ``reason``; ``loud_rounds`` is
      the number of rounds behind it that were measured on a busy machine.
    """
    found = {(row["case"], row["side"]): row for row in document["rows"]}
    verdicts = []
    for target in targets:
        verdict: dict[str, Any] = {"name": target.name, "bound": target.bound, "at_least": target.at_least}
        verdict |= {"measured": None, "reached": None, "reason": "", "loud_rounds": None}
        missing = [f"{case} on {side}" for case, side in target.rows if (case, side) not in found]
        if document["smoke"]:
            verdict["reason"] = "not measured (a smoke run claims nothing)"
        elif missing:
            verdict["reason"] = f"not measured (no {missing[0]})"
        else:
            rows = [found[name] for name in target.rows]
            verdict["reason"] = target.applies(rows, document)
            if not verdict["reason"]:
                measured = target.measure(rows, document)
                verdict["measured"] = measured
                verdict["reached"] = measured >= target.bound if target.at_least else measured <= target.bound
                verdict["loud_rounds"] = max(row["loud_rounds"] for row in rows)
        verdicts.append(verdict)
    return verdicts
