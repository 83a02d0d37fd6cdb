"""Two small figures beside a result of ``cpu_decode``: tokens per second by engine, and the step-cost curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

STYLE: Any = {"svg.hashsalt": "jaxdec", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def names(document: Mapping[str, Any]) -> list[str]:
    """File names of the figures of a result."""
    cases = {row["case"] for row in document["rows"]}
    kinds = [("rates", {"decode", "prefill"}), ("step_cost", {"step_cost"})]
    return [f"{document['stem']}_{kind}.svg" for kind, needed in kinds if needed & cases]


def draw(document: Mapping[str, Any], folder: Path):
    """Write the figures of a result into ``folder``. The same result gives the same bytes."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    drawers = {"rates": rates, "step_cost": step_cost}
    for name in names(document):
        kind = name.removeprefix(f"{document['stem']}_").removesuffix(".svg")
        with matplotlib.rc_context(STYLE):
            figure = drawers[kind](plt, document)
            figure.savefig(folder / name, metadata={"Date": None})
            plt.close(figure)


def rates(plt: Any, document: Mapping[str, Any]):
    """Bars of the median rate, whiskers from min to max."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.0), layout="constrained")
    for ax, case in zip(axes, ("decode", "prefill")):
        rows = [row for row in document["rows"] if row["case"] == case][::-1]
        samples = [row["metrics"]["tokens_per_second"] for row in rows]
        medians = [sample["median"] for sample in samples]
        low = [sample["median"] - sample["min"] for sample in samples]
        high = [sample["max"] - sample["median"] for sample in samples]
        colors = ["C0" if row["engine"] == "jaxdec" else "0.7" for row in rows]
        ax.barh([row["side"] for row in rows], medians, xerr=[low, high], color=colors, error_kw={"lw": 0.8})
        ax.set_xlabel(f"{case}, tokens/s")
    return figure


def step_cost(plt: Any, document: Mapping[str, Any]):
    """``T(n) / T(1)`` against ``n``."""
    figure, ax = plt.subplots(figsize=(3.2, 2.4), layout="constrained")
    for row in document["rows"]:
        if row["case"] == "step_cost":
            points = {int(k.split("_")[1]): v["median"] for k, v in row["metrics"].items() if k.startswith("relative_")}
            ax.plot(list(points), list(points.values()), marker="o", ms=3, label=row["dtype"])
    ax.set(xscale="log", xlabel="new tokens in one pass, n", ylabel="T(n) / T(1)", ylim=(0, None))
    ax.set_xscale("log", base=2)
    ax.legend(frameon=False)
    return figure
