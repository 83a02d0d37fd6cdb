"""The tables of the report."""

from typing import Any

from experiments.papers.chunk_sparsity.results import Results, log_prob, right

OF = {"all": "all chunks dense", "none": "all pooled"}


def tables(results: Results) -> list[dict[str, Any]]:
    """All tables."""
    return [prefills(results), arms(results), recalls(results)]


def prefills(results: Results) -> dict[str, Any]:
    """Rules of prefill."""
    header = ["previous", "global markers", "share of pairs", "computed", "right", "log-probability of answers",
              "of the last section's tokens", "seconds", "foreign load"]  # fmt: skip
    rows = []
    for one in (results.plain, *results.with_markers(True), *results.with_markers(False)):
        last = sum(one["last_section"]) / len(one["last_section"])
        name = ["plain", "-"] if one["previous"] is None else [one["previous"], "yes" if one["markers"] else "no"]
        rows.append(
            [*name, one["share"], one["computed"], right(one), log_prob(one), last, one["seconds"], one["foreign_load"]]
        )
    return {"title": "Prefill under each rule, questions asked of all that was fed", "header": header, "rows": rows}


def arms(results: Results) -> dict[str, Any]:
    """Assembled caches."""
    header = ["relevance", "top", "windows of", "positions", "log m", "entries", "MB", "1 - n'/n", "chunk found", "right",
              "log-probability"]  # fmt: skip
    rows = [
        [
            OF.get(arm["relevance"], arm["relevance"]),
            arm["top"],
            arm["compression"],
            "new" if arm["reposition"] else "old",
            "yes" if arm["log_mass"] else "no",
            arm["entries"],
            arm["bytes"] / 1e6,
            1 - arm["entries"] / results.bilevel["tokens"],
            arm["found"],
            right(arm),
            log_prob(arm),
        ]
        for arm in results.bilevel["arms"]
    ]
    title = f"Bi-level caches after prefill with previous = {results.previous}; bytes of keys and values in use"
    return {"title": title, "header": header, "rows": rows}


def recalls(results: Results) -> dict[str, Any]:
    """How often the chunk with the answer is among the best."""
    header = ["relevance", *(f"top {top}" for top in results.tops)]
    rows = [[name, *(results.recall(name, top) for top in results.tops)] for name in results.bilevel["ranks"]]
    return {"title": "Recall of the chunk with the answer", "header": header, "rows": rows}
