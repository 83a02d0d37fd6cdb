"""The page of papers is what the results of the replicas say."""

import json

import pytest

from experiments.benchmarks.papers_page import papers_page

METRICS = {
    "title": "Diverse Beam Search",
    "source": "arXiv 1610.02424",
    "files": ["jaxdec/decoding/diverse_beam_search.py", "jaxdec/decoding/diversity.py"],
    "guarantee": "token_identical",
    "claims": [
        {"claim": "more distinct 4-grams", "measured": "1.9 times", "reproduced": True},
        {"claim": "better oracle BLEU", "measured": "no", "reproduced": False},
        {"claim": "humans prefer it", "measured": "not asked", "reproduced": None},
    ],
}


def store(folder, name, metrics):
    (folder / name).mkdir(parents=True)
    (folder / name / "metrics.json").write_text(json.dumps(metrics))


def test_rows_by_name_with_every_claim(tmp_path):
    store(tmp_path, "zeta", METRICS)
    store(tmp_path, "alpha", {**METRICS, "claims": METRICS["claims"][:1]})
    lines = papers_page(tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| [`")]
    assert [row[0] for row in rows] == ["[`alpha`](#alpha)", "[`zeta`](#zeta)"]
    assert rows[1][1:5] == [
        "Diverse Beam Search, arXiv 1610.02424",
        "[diverse_beam_search.py](../jaxdec/decoding/diverse_beam_search.py), [diversity.py](../jaxdec/decoding/diversity.py)",
        "token_identical",
        "1 of 3",
    ]
    assert rows[0][4] == "1 of 1"
    begin = lines.index("## zeta")
    assert lines[begin + 4 : begin + 7] == [
        "| more distinct 4-grams | 1.9 times | yes |",
        "| better oracle BLEU | no | **no** |",
        "| humans prefer it | not asked | open |",
    ]
    assert "(../benchmarks/results/papers/zeta/report.md)" in lines[begin + 8]


def test_no_result(tmp_path):
    assert papers_page(tmp_path / "nowhere").endswith("No result yet.\n")
    store(tmp_path, "smoke", {**METRICS, "smoke": True})
    assert papers_page(tmp_path).endswith("No result yet.\n")
    store(tmp_path, "real", {**METRICS, "smoke": False})
    assert "`real`" in papers_page(tmp_path)


@pytest.mark.parametrize("missing", [*METRICS, "reproduced"])
def test_what_is_missing_is_named_with_its_file(tmp_path, missing):
    metrics = {key: value for key, value in METRICS.items() if key != missing}
    if missing == "reproduced":
        metrics["claims"] = [{"claim": "a", "measured": "b"}]
    store(tmp_path, "broken", metrics)
    with pytest.raises(
        ValueError, match=rf"broken.metrics\.json lacks something this page shows: KeyError\('{missing}'\)"
    ):
        papers_page(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_file_that_is_no_json_object(tmp_path, content):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match="broken"):
        papers_page(tmp_path)
