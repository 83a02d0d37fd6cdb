"""Tables and figures of the replica of MMCR."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.manifolds.measurements import ALL, mmcr_arm
from experiments.papers.manifolds.verdicts import Results
from experiments.papers.speculative.figures import draw
from jaxdec.evaluation import mean_interval
from jaxdec.evaluation.manifold_geometry import ball_capacity

QUANTITIES = ("capacity", "radius", "dimension", "correlation")


def tables(results: Results) -> list[dict[str, Any]]:
    """Probes, geometry, and embeddings of several widths."""
    labels = [*map(str, results.labels), ALL]
    accuracy = [[arm, *(share(results.accuracy(arm, count)) for count in labels)] for arm in results.arms]
    geometry = [
        [arm, what, *(float(results.geometry(arm, kind, quantity).mean()) for quantity in QUANTITIES)]
        for kind, what in (("views", "an image's views"), ("classes", "a class"))
        for arm in results.arms
    ]
    sweep = []
    for dimension, runs in results.sweep.items():
        last = float(np.mean([run["last"] for run in runs]))
        sweep.append([dimension, runs[0]["bound"], last, float(results.gaps(dimension).mean())])
    norms = []
    for case in results.norms:
        times = [float(np.median(case["milliseconds"][method])) for method in ("gram", "svd")]
        gain = float(np.median(np.divide(case["milliseconds"]["svd"], case["milliseconds"]["gram"])))
        norms.append([" x ".join(map(str, case["shape"])), *times, gain])
    return [
        {
            "title": "Accuracy of linear probes on test digits, mean over seeds with its 95% interval",
            "header": ["features", *(f"{count} labels" for count in labels)],
            "rows": accuracy,
        },
        {
            "title": "Geometry of manifolds of test digits",
            "header": ["features", "manifold", *QUANTITIES[:3], "correlation of centres"],
            "rows": geometry,
        },
        {
            "title": f"Loss by dimension of the embedding, batches of {results.batch_size}",
            "header": ["dimension", "bound", "last losses", "relative distance"],
            "rows": sweep,
        },
        {
            "title": "Nuclear norm and its gradient, milliseconds",
            "header": ["matrix", "gram", "svd", "svd / gram"],
            "rows": norms,
        },
    ]


def share(values: np.ndarray) -> str:
    """``0.712 [0.701, 0.722]``."""
    found = mean_interval(values)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    draw(folder / "losses.svg", 1, (3.4, 2.4), lambda axes: losses(axes[0], results))
    draw(folder / "probes.svg", 1, (3.4, 2.4), lambda axes: probes(axes[0], results))
    draw(folder / "capacity.svg", 2, (3.2, 2.6), lambda axes: capacities(axes, results))
    draw(folder / "dimensions.svg", 1, (3.0, 2.4), lambda axes: dimensions(axes[0], results))
    return [
        {"file": "losses.svg", "caption": "Loss by update, and its bound."},
        {"file": "probes.svg", "caption": "Test accuracy of linear probes by number of labels."},
        {
            "file": "capacity.svg",
            "caption": "Capacity by radius: arms, and balls of the dimensions written beside the curves.",
        },
        {"file": "dimensions.svg", "caption": "Relative distance from the bound by dimension; dashed: the batch size."},
    ]


def losses(ax: Any, results: Results) -> None:
    """A curve per number of views."""
    for num_views in results.views:
        curves = np.array([part["losses"]["curve"] for part in results.arms[mmcr_arm(num_views)]])
        ax.plot(curves[0, :, 0], curves[..., 1].mean(0), lw=1.2, label=f"{num_views} views")
    ax.axhline(results.arms[mmcr_arm(results.views[0])][0]["losses"]["bound"], color="0.6", lw=0.9, ls="--")
    ax.set(xlabel="updates", ylabel="loss")
    ax.legend(frameon=False)


def probes(ax: Any, results: Results) -> None:
    """A line per arm."""
    labels = [*map(str, results.labels), ALL]
    for arm in results.arms:
        found = [mean_interval(results.accuracy(arm, count)) for count in labels]
        errors = np.array([[one.mean - one.low, one.high - one.mean] for one in found]).T
        ax.errorbar(range(len(labels)), [one.mean for one in found], errors, marker="o", ms=3, lw=1, label=arm)
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="labels", ylabel="accuracy")
    ax.legend(frameon=False, fontsize=6)


def capacities(axes: Any, results: Results) -> None:
    """Balls as curves, arms as points; one panel per kind of manifold."""
    radii = np.geomspace(0.1, 10, 25)
    for ax, (kind, what) in zip(axes, (("views", "views of an image"), ("classes", "images of a class"))):
        for dimension in (1, 5, 20):
            curve = [ball_capacity(float(radius), dimension) for radius in radii]
            ax.plot(radii, curve, color="0.7", lw=0.9)
            ax.annotate(f"{dimension}", (radii[0], curve[0]), color="0.5", fontsize=6, ha="right", va="center")
        for arm in results.arms:
            radius, capacity = (results.geometry(arm, kind, name).mean() for name in ("radius", "capacity"))
            ax.plot([radius], [capacity], marker="o", ms=4, ls="", label=arm)
        ax.set(xlabel="radius", ylabel="capacity", xscale="log", yscale="log", title=what)
    axes[0].legend(frameon=False, fontsize=6)


def dimensions(ax: Any, results: Results) -> None:
    """Relative gaps."""
    found = {dimension: mean_interval(results.gaps(dimension)) for dimension in results.sweep}
    errors = np.array([[one.mean - one.low, one.high - one.mean] for one in found.values()]).T
    ax.errorbar(list(found), [one.mean for one in found.values()], errors, marker="o", ms=3, lw=1)
    ax.axvline(results.batch_size, color="0.6", lw=0.9, ls="--")
    ax.set(xlabel="dimension", ylabel="distance from the bound", xscale="log")
    ax.set_xticks(list(found), [str(dimension) for dimension in found], minor=False)
    ax.minorticks_off()
