"""Two figures: what the strength lambda does to the worth of a list, and to its variety."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from experiments.papers.diverse_beam.results import Means, Results, means
from experiments.record import write_text

STYLE: Any = {
    "svg.hashsalt": "jaxdec",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_figures(result: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw the figures of one list size; returns their names and captions."""
    width, continuations = result.num_beams, means(result.continuations)
    oracle, variety = f"oracle_b{width}.svg", f"variety_b{width}.svg"
    worth, varied = [], []
    for name, task in result.tasks.items():
        test = means(task.test)
        worth += [(test, task.oracle, f"oracle BLEU@{width}, {name}"), (test, "validity", f"validity, {name}")]
        varied.append((test, "distinct-4", f"distinct-4, {name}"))
    draw_curves(folder / oracle, worth)
    smollm2 = [(continuations, "distinct-4", "distinct-4, SmolLM2"), (continuations, "self_bleu", "self-BLEU, SmolLM2")]
    draw_curves(folder / variety, varied + smollm2)
    return [
        {"file": oracle, "caption": f"Paraphrases, B={width}: oracle BLEU (drawn reference) and validity by strength."},
        {"file": variety, "caption": f"B={width}: variety of the lists by strength."},
    ]


def draw_curves(path: Path, panels: Sequence[tuple[Means, str, str]]) -> None:
    """Write one panel per ``(means, score, label)``: the score against lambda, a curve per number of groups.

    Beam search and sampling are levels, the sibling penalties a band. The same numbers give the same bytes.
    """
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    strengths = sorted({arm.strength for means, _, _ in panels for arm in means if arm.family == "diverse"})
    groups = sorted({arm.num_groups for means, _, _ in panels for arm in means if arm.family == "diverse"})
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(2.1 * len(panels), 2.3), layout="constrained", squeeze=False
        )
        for ax, (means, score, label) in zip(axes[0], panels):
            for color, num_groups in enumerate(groups):
                line = [arm for arm in means if (arm.family, arm.num_groups) == ("diverse", num_groups)]
                line.sort(key=lambda arm: arm.strength)
                places, values = [strengths.index(arm.strength) for arm in line], [means[arm][score] for arm in line]
                ax.plot(places, values, marker="o", ms=3, color=f"C{color}", label=f"diverse, G = {num_groups}")
            for family, color in {"beam": "k", "sample": "0.6"}.items():
                (level,) = (mean[score] for arm, mean in means.items() if arm.family == family)
                ax.axhline(level, color=color, lw=0.9, ls="--", label=family)
            band = [mean[score] for arm, mean in means.items() if arm.family == "siblings"]
            ax.axhspan(min(band), max(band), color="C4", alpha=0.25, lw=0.5, label="sibling penalty")
            ax.set(xlabel="lambda", title=label)
            ax.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    write_text(path, text.getvalue())
