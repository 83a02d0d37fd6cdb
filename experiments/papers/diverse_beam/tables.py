"""The tables of the report: every arm, every score."""

from collections.abc import Mapping
from typing import Any

from experiments.papers.diverse_beam.paraphrase_lists import cutoffs
from experiments.papers.diverse_beam.results import Results, means

VARIETY = ("distinct-1", "distinct-2", "distinct-3", "distinct-4", "different")
LIKELIHOOD = ("best_log_prob", "mean_log_prob", "calls")
TIMES = ("seconds", "ratio", "cpu_seconds", "cpu_ratio", "foreign_load")


def tables(result: Results) -> list[dict[str, Any]]:
    """All tables of one list size."""
    size = f"B={result.num_beams}"
    oracles = [f"oracle_{kind}@{k}" for kind in ("drawn", "all") for k in cutoffs(result.num_beams)]
    scores = [*oracles, "validity", "coverage", "chance", *VARIETY, *LIKELIHOOD]
    continuations = [*VARIETY, "self_bleu", *LIKELIHOOD]
    times = {name: {time: spread(entry[time]) for time in TIMES} for name, entry in result.timing.items()}
    return [
        *(
            table(f"{name} paraphrases, {size}", scores, by_name(means(task.test)))
            for name, task in result.tasks.items()
        ),
        *(
            table(f"{name} paraphrases, {size}: all test lists pooled", None, by_name(task.pooled))
            for name, task in result.tasks.items()
        ),
        table(f"SmolLM2 continuations, {size}", continuations, by_name(means(result.continuations))),
        table(f"Time for one batch of continuations, {size}: median (min to max)", TIMES, times),
    ]


def table(title: str, columns: Any, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One table; all columns that the first row has where ``columns`` is None."""
    columns = list(columns or next(iter(rows.values())))
    header = ["arm", *(column.replace("_", " ") for column in columns)]
    return {
        "title": title,
        "header": header,
        "rows": [[name, *(row[c] for c in columns)] for name, row in rows.items()],
    }


def by_name(values: Mapping[Any, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """With the names of the arms as keys."""
    return {arm.name: row for arm, row in values.items()}


def spread(samples: Mapping[str, Any] | None) -> str | None:
    """``median (min to max)``."""
    return None if samples is None else f"{samples['median']:.2f} ({samples['min']:.2f} to {samples['max']:.2f})"
