"""Figures show the numbers of a result."""

import re

import pytest

from experiments.benchmarks import figures
from tests.experiments.benchmarks.synthetic import cpu_document


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return cpu_document(tmp_path_factory.mktemp("results"))


def test_names_follow_the_cases(document):
    assert figures.names(document) == [f"{document['stem']}_rates.svg", f"{document['stem']}_step_cost.svg"]
    rows = [row for row in document["rows"] if row["case"] == "step_cost"]
    assert figures.names({**document, "rows": rows}) == [f"{document['stem']}_step_cost.svg"]
    assert figures.names({**document, "rows": []}) == []


def test_the_same_result_gives_the_same_bytes_and_another_gives_others(document, tmp_path):
    def drawn(name, document):
        folder = tmp_path / name
        folder.mkdir()
        figures.draw(document, folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = drawn("first", document)
    assert sorted(first) == sorted(figures.names(document))
    assert drawn("second", document) == first
    assert not any(re.search(rb"<dc:date>", content) for content in first.values())
    rows = [dict(row) for row in document["rows"]]
    faster = {"median": 90.0, "min": 80.0, "max": 95.0, "samples": [90.0]}
    rows[0]["metrics"] = {**rows[0]["metrics"], "tokens_per_second": faster}
    other = drawn("third", {**document, "rows": rows})
    rates, steps = figures.names(document)
    assert other[rates] != first[rates]
    assert other[steps] == first[steps]


def test_bars_and_whiskers_are_the_medians_and_ranges(document):
    import matplotlib.pyplot as plt

    figure = figures.rates(plt, document)
    left, right = figure.axes
    widths = [bar.get_width() for bar in left.patches]
    assert widths == pytest.approx([101.0, 25.25, 20.2, 40.4, 50.5])  # from the bottom up, ours on top
    assert [bar.get_width() for bar in right.patches][-1] == pytest.approx(404.0)
    whisker = left.collections[0].get_segments()[-1]
    assert [point[0] for point in whisker] == pytest.approx([50.0, 51.0])
    plt.close(figure)


def test_the_curve_is_relative_to_one_token(document):
    import matplotlib.pyplot as plt

    figure = figures.step_cost(plt, document)
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["float32", "bfloat16"]
    assert list(lines[0].get_xdata()) == [1, 2, 4]
    assert list(lines[0].get_ydata()) == pytest.approx([1.0, 24 / 22, 28 / 22])
    plt.close(figure)
