"""Tables and figures."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.papers.speculative.figures import draw
from experiments.papers.white_box.images import ARMS
from experiments.papers.white_box.verdicts import Results


def tables(results: Results) -> list[dict[str, Any]]:
    """All of them."""
    classifiers = [
        [arm, f"{np.mean(results.accuracy(arm)):.3f}", f"{min(results.accuracy(arm)):.3f} to {max(results.accuracy(arm)):.3f}",
         results.classifiers[arm][0]["parameters"], round(results.classifiers[arm][0]["per_layer"])]
        for arm in ARMS
    ]  # fmt: skip
    floors = [[f"linear, {name}", f"{value:.3f}", "-", "-", "-"] for name, value in results.floor.items()]
    decoded = results.language["crate"]["decoded"]
    methods = [
        [name, f"{one['tokens_per_call']:.2f}", f"{one['equal']} of {one['texts']}", f"{one['log_prob']:.2f}"]
        for name, one in decoded.items()
        if name != "text"
    ]
    steps = [
        [f"{one['factor']:g}", f"{one['cosine']:.3f}", f"{one['change']:+.2%}"]
        for one in results.subspaces["approximation"]
    ]
    return [
        {"title": title, "header": header, "rows": rows}
        for title, header, rows in (
            ("Digits", ["classifier", "accuracy", "over seeds", "parameters", "a layer"], classifiers + floors),
            ("An attention step beside the gradient", ["P / (N e^2)", "cosine", "change of the rate"], steps),
            ("CRATE-GPT decoded", ["method", "tokens per call", "texts of greedy", "log-probability"], methods),
        )
    ]


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw all; returns names and captions."""
    draw(folder / "layers.svg", 2, (3.0, 2.4), lambda axes: layers(axes, results))
    draw(folder / "subspaces.svg", 2, (3.0, 2.4), lambda axes: subspaces(axes, results))
    maps = results.classifiers["crate"][0]["maps"]
    columns = 1 + len(maps["weights"][0])
    draw(folder / "attention.svg", columns, (1.3, 1.5), lambda axes: attention(axes, maps))
    return [
        {"file": "layers.svg", "caption": "Coding rate within subspaces, and share of non-zero codes, by layer: trained, and "
                                          "before training (dashed); a line per seed."},
        {"file": "subspaces.svg", "caption": "Exact steps: coding rate, and share of energy in the own subspace."},
        {"file": "attention.svg", "caption": "A digit, and the class token's attention to its patches in the last layer."},
    ]  # fmt: skip


def layers(axes: Any, results: Results) -> None:
    """Both probes."""
    for ax, name, label in ((axes[0], "rate", "coding rate, nats"), (axes[1], "nonzero", "share of non-zero codes")):
        for when, style in (("trained", "-"), ("untrained", "--")):
            for line in results.probe("crate", name, when):
                ax.plot(np.arange(1, len(line) + 1), line, ls=style, color="C0" if when == "trained" else "0.6", lw=1)
        ax.set(xlabel="layer", ylabel=label)


def subspaces(axes: Any, results: Results) -> None:
    """Behind each step."""
    axes[0].plot(results.subspaces["rate"])
    axes[0].set(xlabel="step", ylabel="coding rate, nats")
    axes[1].plot(results.subspaces["energy"])
    axes[1].set(xlabel="step", ylabel="energy in the own subspace")


def attention(axes: Any, maps: Any) -> None:
    """The first image."""
    axes[0].imshow(np.array(maps["images"][0]), cmap="gray")
    for ax, weights in zip(axes[1:], maps["weights"][0]):
        side = int(len(weights) ** 0.5)
        ax.imshow(np.array(weights).reshape(side, side))
    for number, ax in enumerate(axes):
        ax.set(xticks=[], yticks=[], title="image" if number == 0 else f"head {number}")
