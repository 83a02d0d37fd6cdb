"""The page and the figures show the numbers of the result."""

import re

import pytest

from experiments.benchmarks.kernels import figures
from experiments.benchmarks.kernels.page import ceilings_text, dense_sides, kernels_section
from tests.experiments.benchmarks.kernels.synthetic import h200_document, kernel_document, kernel_session


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return kernel_document(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def h200(tmp_path_factory):
    return h200_document(tmp_path_factory.mktemp("results"))


def table(section, title):
    """Rows of the table under a title, as dictionaries."""
    lines = section[section.index(f"**{title}") :].split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    stop = next(i for i, line in enumerate(lines[start:], start) if not line.startswith("|"))
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:stop])
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_numbers_are_those_of_the_result(document):
    rows = table(kernels_section(document), "Whole attention")
    row = next(row for row in rows if row["side"] == "**jaxdec-xla**" and row["batch"] == "4")
    assert (row["heads"], row["prefix"], row["own"]) == ("9/3 x 64", "1024", "32")
    assert row["time, us"] == "5.0 (4.0 to 6.0)"
    # 1024 tokens once and 32 in each of 4 rows, 1536 bytes of keys and of values each; 4 x 9 x 64 queries; states.
    nbytes = 2 * (1024 + 4 * 32) * 3 * 64 * 4 + 4 * 9 * 64 * 4 + 4 * 9 * 65 * 4
    flops = 4 * 4 * 9 * 64 * 1056
    assert (row["MB"], row["GFLOP"]) == (f"{nbytes / 1e6:.2f}", f"{flops / 1e9:.3f}")
    floor = max(nbytes / 200e3, flops / 1e6)
    assert row["floor, us"] == f"{floor:.1f}"
    assert row["of the floor, %"] == f"{100 * floor / 5:.0f} ({100 * floor / 6:.0f} to {100 * floor / 4:.0f})"
    assert (row["GB/s"], row["GFLOP/s"]) == (f"{nbytes / 5e3:.1f}", f"{flops / 5e3:.1f}")
    assert (row["compile, s"], row["difference"], row["loud rounds"]) == ("2.50", "1e-06", "0 of 3")
    assert [row["side"] for row in rows[:4]] == ["**jaxdec-xla**", "**copied-xla**", "**jax.nn-xla**", "**torch-sdpa**"]
    merges = table(kernels_section(document), "`merge`")
    assert [(row["batch"], row["prefix"], row["side"]) for row in merges] == [
        (n, "-", "**jaxdec-xla**") for n in ("1", "4", "16")
    ]


def test_speed_ups_are_times_of_others_over_the_fastest_of_ours(document, h200):
    rows = table(kernels_section(document), "Dense attention")
    assert [row["batch"] for row in rows] == ["1", "4", "16"]
    assert rows[1]["ours"] == "**jaxdec-xla**"
    ratios = {name: value.split()[0] for name, value in rows[1].items() if name.endswith("/ ours")}
    assert ratios == {"copied-xla / ours": "1.50", "jax.nn-xla / ours": "8.00", "torch-sdpa / ours": "4.00"}
    rows = table(kernels_section(h200), "Dense attention")
    assert len(rows) == 16
    assert {row["ours"] for row in rows} == {"**jaxdec-hopper**"}
    assert rows[0]["jax.nn-cudnn / ours"].startswith("12.00 ")
    assert dense_sides(h200) == ["copied-xla", "jax.nn-xla", "jax.nn-cudnn", "torch-sdpa"]


def test_what_the_machine_can_do(document, h200):
    assert ceilings_text(document) == (
        "A copy moves 100 (100 to 100) GB/s, reading 200 (200 to 200) GB/s; a product in float32 does 1.00 (1.00 to 1.00) "
        "TFLOP/s; handing a call over takes 5.0 (5.0 to 5.0) us. Times are a call's on the host."
    )
    assert "product in bfloat16" in ceilings_text(h200)
    assert ceilings_text(h200).endswith("Times are the device's own.")


def test_targets_stand_where_they_are_set(document, h200):
    assert "**Targets**: none is set for this device.\n" in kernels_section(document)
    rows = table(kernels_section(h200), "Targets")
    assert [row["target"] for row in rows] == ["at least 0.6", "at least 0.8", "at least 10"]
    assert rows[2]["measured"] == "12.00"


def test_who_is_left_out_is_told_once_for_each_reason(tmp_path):
    reasons = {("prefix_attention", "jax.nn-xla"): "too wide", ("decode_attention", "jax.nn-xla"): "too long"}
    section = kernels_section(kernel_document(tmp_path, kernel_session(refuses=reasons)))
    assert "\nAbsent: jaxdec-hopper (runs on gpu, and jax sees cpu).\n" in section
    heads = "q9_kv3_d64"
    cases = ", ".join(f"prefix_attention_{heads}_b{n}_p1024" for n in (1, 4, 16))
    assert f"\nRefused by jax.nn-xla: {cases} (too wide).\n" in section
    assert section.count("Refused by") == 2


def test_smoke_runs_can_be_shown(tmp_path):
    section = kernels_section(kernel_document(tmp_path, smoke=True), with_figures=False)
    assert "svg" not in section
    assert "4/2 x 16" in section
    assert not re.search(r"\n\n\n", section)


def test_figures_are_named_on_the_page_and_drawn_the_same_every_time(document, tmp_path):
    assert figures.names(document) == [f"{document['stem']}_floor.svg", f"{document['stem']}_sharing.svg"]
    section = kernels_section(document)
    drawn = {}
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        figures.draw(document, folder)
        drawn[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert drawn["one"] == drawn["two"]
    for name in figures.names(document):
        assert f"](../benchmarks/results/{name})" in section
        assert b"<dc:date>" not in drawn["one"][name]


def test_marks_are_percents_of_the_floor(document):
    import matplotlib.pyplot as plt

    figure = figures.floor(plt, document)
    assert [ax.get_title() for ax in figure.axes] == [
        "merge",
        "prefix_attention",
        "decode_attention",
        "whole_attention",
        "block_sparse_attention",
        "sparse_decode_attention",
    ]
    shown = {container.get_label(): container[0].get_ydata() for container in figure.axes[3].containers}
    for side, percents in shown.items():
        rows = [row for row in document["rows"] if row.get("operation") == "whole_attention" and row["side"] == side]
        assert list(percents) == pytest.approx([100 * row["metrics"]["fraction_of_floor"]["median"] for row in rows])
    assert set(shown) == {"jaxdec-xla", "copied-xla", "jax.nn-xla", "torch-sdpa"}
    assert len(figure.axes[3].get_xticks()) == 3
    plt.close(figure)


def test_lines_are_speed_ups_by_batch(h200):
    import matplotlib.pyplot as plt

    figure = figures.sharing(plt, h200)
    titles = [f"{heads} heads, {prefix} tokens" for heads in ("32/8", "8/1") for prefix in (1024, 8192)]
    assert [ax.get_title() for ax in figure.axes] == titles
    for ax in figure.axes:
        lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
        assert set(lines) == {"copied-xla", "jax.nn-xla", "jax.nn-cudnn", "torch-sdpa"}
        assert list(lines["jax.nn-cudnn"].get_xdata()) == [1, 16, 256, 1024]
        assert list(lines["jax.nn-cudnn"].get_ydata()) == pytest.approx([12.0] * 4)
    plt.close(figure)


def test_there_is_a_figure_without_anybody_to_compare_with(document):
    import matplotlib.pyplot as plt

    rows = [row for row in document["rows"] if row["side"] in ("device", "jaxdec-xla")]
    figure = figures.sharing(plt, {**document, "rows": rows})
    assert len(figure.axes) == 1
    plt.close(figure)
