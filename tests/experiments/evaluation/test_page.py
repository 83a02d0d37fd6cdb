"""The page says what the results say."""

import json
import shutil

import pytest

from experiments.benchmarks.rendering import render
from experiments.evaluation import figures
from experiments.evaluation.page import evaluation_page, newest_results, read_result, section
from experiments.evaluation.verdicts import judge
from tests.experiments.benchmarks.synthetic import console
from tests.experiments.evaluation.synthetic import document


def table(page, title):
    """Cells of the first table behind a title, by the first cell of each line."""
    lines = page[page.index(title) :].split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next(i for i, line in enumerate(lines[start:], start) if not line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]
    return {row[0]: dict(zip(cells[0], row)) for row in cells}


def written(folder, name="specbench_m-float32_a-machine_2026-01-02", **changes):
    made = document(**changes)
    made["targets"] = judge(made)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in made.items() if key != "stem"}))
    return path


def test_numbers_on_the_page_are_those_of_the_result(tmp_path):
    page = evaluation_page([read_result(written(tmp_path))])
    assert table(page, "**Tokens per call**")["`prompt_lookup_7`"]["edit (copies)"] == "2.50"
    speed = table(page, "**Speed-up over plain")
    assert speed["`prompt_lookup`"]["chat"] == "1.70 [1.60, 1.80]"
    assert "`aded_static_63`" not in speed
    targets = table(page, "**Targets**")
    first = targets["prompt lookup: tokens per call, lowest of the copy-heavy families"]
    assert (first["target"], first["measured"], first["reached"]) == ("at least 2", "2.5", "yes")
    assert first["where"] == "prompt_lookup_7, summarise"
    gain = targets["ADED: adaptive less static tokens per call, lowest of all families"]
    assert (gain["target"], gain["measured"]) == ("more than 0", "0.1")
    totals = table(page, "**Over all families**")
    assert totals["`prompt_lookup`"]["Spec-Bench's ratio"] == "1.23"
    assert (totals["`lookahead`"]["nodes wasted"], totals["`lookahead`"]["equal"]) == ("60%", "32 of 32")
    assert totals["llama.cpp"]["tokens/s"] == "150.0"
    assert table(page, "**Acceptance by depth**")["`lookahead`"]["2"] == "0.20"
    assert table(page, "**Cost of drafting**")["`aded_static`"]["share"] == "5.0%"
    assert table(page, "**Adaptation.**")["code"]["gap's slope per prompt"] == "+0.1000 [+0.0500, +0.1500]"
    assert table(page, "### m, float32")["prompts, loud rounds of them"][""] == "2 of 96"
    assert "float32: 1: 1.00, 8: 1.88." in page
    assert "There are none." in page


def test_differences_are_told_one_by_one():
    said = document()["differences"]
    said["lookahead"] = {"compared": 32, "equal": 30, "unequal": [
        {"prompt": "chat-1", "position": 7, "gap": 2e-5, "tie": True},
        {"prompt": "edit-2", "position": 3, "gap": 0.5, "tie": False},
    ]}  # fmt: skip
    text = section(document(differences=said))
    assert "`lookahead`, chat-1 at token 7: gap 2e-05, a tie." in text
    assert "`lookahead`, edit-2 at token 3: gap 0.5, **no tie**." in text
    assert table(text, "**Over all families**")["`lookahead`"]["equal"] == "30 of 32"


def test_only_the_newest_result_of_each_model_dtype_and_machine_is_shown(tmp_path):
    written(tmp_path, "specbench_a")
    written(tmp_path, "specbench_b", date="2026-01-03")
    written(tmp_path, "specbench_c", model={"name": "m", "dtype": "bfloat16", "num_params": 10})
    written(tmp_path, "specbench_smoke_d", date="2026-01-09", smoke=True)
    found = [(result["model"]["dtype"], result["date"]) for result in newest_results(tmp_path)]
    assert found == [("bfloat16", "2026-01-02"), ("float32", "2026-01-03")]
    assert newest_results(tmp_path / "nowhere") == []


def test_a_file_that_is_no_result_is_refused(tmp_path):
    path = tmp_path / "specbench_x.json"
    for text in ("{", "[]", '{"smoke": false}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a result of an evaluation"):
            newest_results(tmp_path)


def test_render_writes_page_and_figures_and_check_finds_them_stale(tmp_path):
    results, docs = tmp_path / "results", tmp_path / "docs"
    path = written(results / "evaluation")
    docs.mkdir()
    assert render(results, docs, check=True, console=console()[0]) == 1
    assert render(results, docs, check=False, console=console()[0]) == 0
    assert render(results, docs, check=True, console=console()[0]) == 0
    page = (docs / "evaluation.md").read_text()
    drawn = figures.names(read_result(path))
    assert len(drawn) == 4
    for name in drawn:
        assert f"(../benchmarks/results/evaluation/{name})" in page
        assert (results / "evaluation" / name).stat().st_size > 1000
    first = (results / "evaluation" / drawn[0]).read_bytes()
    figures.draw(read_result(path), results / "evaluation")
    assert (results / "evaluation" / drawn[0]).read_bytes() == first
    written(results / "evaluation", max_new_tokens=65)
    assert render(results, docs, check=True, console=console()[0]) == 1
    shutil.rmtree(results / "evaluation")
    assert render(results, docs, check=False, console=console()[0]) == 0
    assert "Not measured yet." in (docs / "evaluation.md").read_text()


def test_without_adaptation_and_peer_their_tables_are_missing_and_the_reason_is_there():
    text = section(
        document(adaptation=[], over_peer=[], peer_rows=[], peer={}, absent=[{"side": "llama.cpp", "reason": "gone"}])
    )
    assert "Absent: llama.cpp (gone)." in text
    assert "**Adaptation.**" not in text
    assert "llama.cpp's plain decoding**" not in text
