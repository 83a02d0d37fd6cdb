"""Two figures: arms by family, and what a carried table gains from prompt to prompt."""

import io
from pathlib import Path
from typing import Any

import matplotlib

from experiments.papers.adaptive_drafting.greedy_texts import DOMAINS, FAMILIES
from experiments.papers.adaptive_drafting.results import Results
from experiments.record import write_text

STYLE: Any = {
    "svg.hashsalt": "jaxdec",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
BARS = (
    "prompt lookup",
    "adaptive cold",
    "static foreign",
    "adaptive foreign",
    "static own",
    "adaptive own",
    "prompt learnt",
)


def draw_figures(results: Results, folder: Path) -> list[dict[str, Any]]:
    """Draw; returns names and captions."""
    draw_families(results, folder / "families.svg")
    draw_carried(results, folder / "carried.svg")
    return [
        {"file": "families.svg", "caption": "Tokens per call by family; plain decoding has 1. The dashed line is 1.3."},
        {
            "file": "carried.svg",
            "caption": "Tables carried from prompt to prompt of a domain, mean over orders: tokens per call of the cold start, "
            "and of the adaptive table on a foreign corpus; dashed, the means of prompt lookup and of the static table.",
        },
    ]


def draw_families(results: Results, path: Path) -> None:
    """A group of bars per family."""
    plt = _pyplot()
    families, bars = results.groups_of(FAMILIES), [arm for arm in BARS if arm in results.counts]
    width = 0.8 / len(bars)
    with matplotlib.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.0, 2.6), layout="constrained")
        for number, arm in enumerate(bars):
            values = [results.rate(arm, results.keys(FAMILIES, family)) for family in families]
            places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(families))]
            ax.bar(places, values, width, label=arm, color=f"C{number}")
        ax.axhline(1.3, color="k", lw=0.8, ls="--")
        ax.set(ylabel="tokens per call", ylim=(1, None))
        ax.set_xticks(range(len(families)), families)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        _write(figure, path)


def draw_carried(results: Results, path: Path) -> None:
    """A panel per domain."""
    plt = _pyplot()
    domains = results.groups_of(DOMAINS)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(domains), figsize=(3.5 * len(domains), 2.4), layout="constrained", squeeze=False
        )
        for ax, domain in zip(axes[0], domains):
            for color, (name, level) in enumerate((("cold", "prompt lookup"), ("foreign", "static foreign"))):
                line = results.by_index(name, domain, None)
                ax.plot(range(1, len(line) + 1), line, marker="o", ms=2.5, color=f"C{color}", label=f"{name}, carried")
                mean = results.rate(level, results.keys(DOMAINS, domain))
                ax.axhline(mean, color=f"C{color}", lw=0.9, ls="--", label=level)
            ax.set(title=f"domain {domain}", xlabel="prompts seen", ylabel="tokens per call")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        _write(figure, path)


def _pyplot() -> Any:
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def _write(figure: Any, path: Path) -> None:
    """The same numbers give the same bytes."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    _pyplot().close(figure)
    write_text(path, text.getvalue())
