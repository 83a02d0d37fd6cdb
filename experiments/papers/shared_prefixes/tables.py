"""The tables of the report."""

from typing import Any

from experiments.papers.shared_prefixes.decoding import rates
from experiments.papers.shared_prefixes.results import Results, bound, median
from experiments.papers.shared_prefixes.timing import speed_ups


def tables(results: Results) -> list[dict[str, Any]]:
    """All tables."""
    return [attention(results), steps(results), texts(results), tree(results)]


def attention(results: Results) -> dict[str, Any]:
    """Attention alone."""
    header = ["b", "P", "S", "copied, ms", "shared, ms", "faster", "least", "most", "fewer bytes read"]
    rows = []
    for case in results.attention:
        gains = speed_ups(case)
        times = [median(case["milliseconds"][side]) for side in ("copied", "shared")]
        sizes = [case[name] for name in ("batch", "prefix", "suffix")]
        rows.append([*sizes, *times, median(gains), min(gains), max(gains), bound(case)])
    return {"title": "Attention of one layer, one new token per row", "header": header, "rows": rows}


def steps(results: Results) -> dict[str, Any]:
    """Whole steps."""
    header = ["b", "P", "S", "copied, ms", "shared, ms", "no prefix, ms", "faster", "attention copied, ms",
              "attention shared, ms", "tokens kept copied", "tokens kept shared", "ratio", "formula"]  # fmt: skip
    rows = []
    for case in results.steps:
        alone = [
            results.layers * median(found["milliseconds"][side])
            for found in results.attention
            for side in ("copied", "shared")
            if all(found[name] == case[name] for name in ("batch", "prefix", "suffix"))
        ]
        times = [median(case["milliseconds"][side]) for side in ("copied", "shared", "none")]
        held = [case["held"][side] for side in ("copied", "shared")]
        sizes = [case[name] for name in ("batch", "prefix", "suffix")]
        own = alone or [None, None]
        rows.append([*sizes, *times, median(speed_ups(case)), *own, *held, held[1] / held[0], case["formula"]])
    return {"title": "Whole steps; attention is that of one layer times the layers", "header": header, "rows": rows}


def texts(results: Results) -> dict[str, Any]:
    """Whole texts."""
    header = ["b", "P", "arm", "prefill, s", "steps, s", "tokens/s with prefill", "tokens/s without", "cache, MB"]
    rows = [
        [
            batch,
            prefix,
            name,
            median(arm["prefill"]),
            median(arm["decode"]),
            median(rates(part, name, prefill=True)),
            median(rates(part, name, prefill=False)),
            arm["bytes"] / 1e6,
        ]
        for (batch, prefix), part in results.rates.items()
        for name, arm in part["arms"].items()
    ]
    title = "Whole texts: every row prefilled by itself; prefilled once and copied; shared"
    return {"title": title, "header": header, "rows": rows}


def tree(results: Results) -> dict[str, Any]:
    """Levels."""
    header = ["levels", "prefill, s", "steps, s", "over no level", "cache, MB", "texts equal to no level's"]
    plain = results.tree["arms"]["none"]["texts"]
    rows = []
    for name, arm in results.tree["arms"].items():
        equal = sum(one == other for one, other in zip(plain, arm["texts"], strict=True))
        times = [results.tree_seconds(name, part) for part in ("prefill", "decode")]
        ratio = median(results.tree_ratio(name, "none"))
        rows.append([name, *times, ratio, arm["bytes"] / 1e6, f"{equal} of {len(plain)}"])
    return {"title": "Tree of examples, problems and sampled texts", "header": header, "rows": rows}
