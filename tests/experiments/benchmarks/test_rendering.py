"""Pages and tables are rendered from results, and stale ones noticed."""

import json
import re

import pytest

from experiments.benchmarks import rendering
from experiments.benchmarks.rendering import benchmarks_page, cpu_section, newest_results, render, show
from tests.experiments.benchmarks.kernels.synthetic import kernel_document
from tests.experiments.benchmarks.synthetic import console, cpu_document, gpu_document


@pytest.fixture
def folders(tmp_path):
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    return results, docs


def run(folders, check=False):
    screen, text = console()
    return render(*folders, check=check, console=screen), text.getvalue()


def table(page, title):
    """Cells of the first table behind a title."""
    lines = page[page.index(title) :].split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = [line for line in lines[start:] if line.startswith("|") or not line][: lines[start:].index("")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_without_results_the_pages_say_so(folders):
    status, _ = run(folders)
    assert status == 0
    page = (folders[1] / "benchmarks.md").read_text()
    assert page.count("Not measured yet.") == 5
    assert "No result yet." in (folders[1] / "papers.md").read_text()
    assert run(folders, check=True)[0] == 0


def test_check_finds_stale_and_missing_pages_and_figures_and_touches_nothing(folders):
    results, docs = folders
    cpu_document(results)
    status, text = run(folders, check=True)
    assert status == 1
    assert f"{docs / 'benchmarks.md'} is missing: run python -m experiments.benchmark --render" in text
    assert f"{docs / 'papers.md'} is missing" in text
    assert "rates.svg is missing" in text
    assert list(docs.iterdir()) == []
    run(folders)
    status, text = run(folders, check=True)
    assert status == 0
    assert "benchmarks.md and " in text
    assert "are what the results in" in text
    for path in (docs / "benchmarks.md", docs / "papers.md"):
        good = path.read_text()
        path.write_text(good + " ")
        status, text = run(folders, check=True)
        assert status == 1
        assert text.count("is not what the results say") == 1
        assert path.read_text() == good + " "
        path.write_text(good)
    next(results.glob("*step_cost.svg")).unlink()
    assert run(folders, check=True)[0] == 1


def test_a_new_result_makes_the_page_stale(folders):
    run(folders)
    cpu_document(folders[0])
    assert run(folders, check=True)[0] == 1


def test_the_same_results_give_the_same_bytes(folders):
    cpu_document(folders[0])
    gpu_document(folders[0])
    kernel_document(folders[0])
    run(folders)
    first = {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()}
    assert {name.rpartition(".")[2] for name in first} == {"json", "md", "svg"}
    run(folders)
    assert {path.name: path.read_bytes() for folder in folders for path in folder.iterdir()} == first


def test_numbers_on_the_page_are_those_of_the_result(folders):
    cpu_document(folders[0])
    run(folders)
    page = (folders[1] / "benchmarks.md").read_text()
    header, _, *lines = table(page, "**Greedy decoding, batch 1**")
    rows = {line[0]: dict(zip(header, line)) for line in lines}
    ours = rows["**jaxdec-float32**"]
    assert ours["tokens/s"] == "50.5 (50.0 to 51.0)"
    assert (ours["/ jaxdec-float32"], ours["/ transformers-float32"], ours["/ llama.cpp"]) == ("1", "2.50", "0.50")
    assert (ours["prompt"], ours["new"], ours["tokens per call"], ours["compile, s"]) == ("3", "6", "1.00", "2.5")
    assert (ours["peak memory, MB"], ours["foreign load"], ours["loud rounds"]) == ("700", "unknown", "0 of 3")
    assert rows["**llama.cpp**"]["version"] == "llama.cpp 1.0"
    assert rows["**llama.cpp**"]["note"] == "by llama.cpp"
    header, _, *lines = table(page, "**Prefill**")
    assert [line[header.index("new")] for line in lines] == ["1"] * 5
    header, _, *lines = table(page, "**Targets**")
    assert lines[0] == ["decoding, float32: ours / transformers", "at least 2", "2.50", "yes", "0"]
    assert lines[3][2:] == ["0.50", "**no**", "0"]
    header, _, *lines = table(page, "**Cost of a step")
    assert [line[0] for line in lines] == ["1", "2", "4", "floor", "one step / floor"]
    assert lines[2][1:3] == ["28.3 (28.0 to 28.6)", "1.27"]
    assert lines[3][1] == "20.0 (20.0 to 20.0) [16.0]"
    assert lines[4][2] == "1.10 [1.38]"
    cold = page[page.index("**Cold start**") :].split("\n")[0]
    for words in ("4.0 (4.0 to 4.1) s to the first text", "1000 MB, 2.00 times the float32 weights", "programs 2.5 s"):
        assert words in cold
    assert "jaxdec-float32 and transformers-float32 write the same 3 tokens." in page
    assert "| jax | 0.10.2 |" in page
    assert "| cpu flags | avx, avx2 |" in page


def test_absent_engines_and_missing_cases_are_told(folders):
    document = cpu_document(folders[0], "llama.cpp", "transformers-float32", "transformers-bfloat16", "command")
    text = cpu_section(document)
    assert "Absent: llama.cpp (not installed)." in text
    assert "Cold start" not in text.replace("cold start to the first text", "")
    assert "not measured (no prefill on llama.cpp)" in text
    document["rows"] = [row for row in document["rows"] if row["case"] != "step_cost"]
    assert "Cost of a step" not in cpu_section(document)


def test_a_difference_between_texts_is_told(folders):
    document = cpu_document(folders[0])
    document["agreement"] = {
        "sides": ["a", "b"], "tokens": 9, "equal": False, "first_difference": 4, "gap_ours": 0.012, "gap_theirs": 0.5,
    }  # fmt: skip
    assert "a and b first differ at token 4; each prefers its own: 0.012 by our logits, 0.5 by theirs." in cpu_section(
        document
    )


def test_gpu_section(folders):
    gpu_document(folders[0])
    run(folders)
    page = (folders[1] / "benchmarks.md").read_text()
    header, _, *lines = table(page[page.index("## Decoding on a GPU") :], "| batch")
    assert [line[0] for line in lines] == ["1", "8", "32"]
    row = dict(zip(header, lines[1]))
    # A step takes 0.2 s, and reads 4 GB of weights and 8 rows of 1024 + 65 / 2 tokens of 0.1 MB: 24.2 GB/s of 1000.
    assert row["step, ms"] == "198.02 (196.08 to 200.00)"
    assert row["weights + KV read, GB"] == "4.00 + 0.85"
    assert row["GB/s"] == "24 (24 to 25)"
    assert row["of the copy"] == "0.02 (0.02 to 0.02)"
    assert "Copy bandwidth in the same rounds: 1010 (1000 to 1020) GB/s." in page


def test_kernels_have_a_section_and_figures(folders):
    document = kernel_document(folders[0])
    assert run(folders, check=True)[0] == 1
    run(folders)
    page = (folders[1] / "benchmarks.md").read_text()
    section = page[page.index("## Kernels") : page.index("## Long contexts")]
    assert "### test-2t, 2026-01-02" in section
    assert "Not measured yet." not in section
    assert run(folders, check=True)[0] == 0
    (folders[0] / f"{document['stem']}_sharing.svg").unlink()
    status, text = run(folders, check=True)
    assert status == 1
    assert "sharing.svg is missing" in text


def store(folder, name, **fields):
    (folder / name).write_text(json.dumps({"smoke": False, "host": "h", "date": "2026-01-01", **fields}))


def test_the_newest_result_of_each_machine_counts_and_smoke_runs_do_not(tmp_path):
    store(tmp_path, "cpu_decode_h_2026-01-01.json")
    store(tmp_path, "cpu_decode_h_2026-01-03.json", date="2026-01-03")
    store(tmp_path, "cpu_decode_h_2026-01-02.json", date="2026-01-02")
    store(tmp_path, "cpu_decode_a_2026-01-01.json", host="a")
    store(tmp_path, "cpu_decode_smoke_h_2026-02-01.json", date="2026-02-01", smoke=True)
    store(tmp_path, "gpu_decode_g_2026-02-01.json", host="g")
    store(tmp_path, ".cpu_decode_h.partial.json")
    newest = newest_results(tmp_path, "cpu_decode")
    assert [document["stem"] for document in newest] == ["cpu_decode_a_2026-01-01", "cpu_decode_h_2026-01-03"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"smoke": false}', "3"])
def test_a_file_that_is_no_result_is_named(folders, content):
    (folders[0] / "cpu_decode_x_2026-01-01.json").write_text(content)
    with pytest.raises(ValueError, match=r"cpu_decode_x_2026-01-01\.json is not a result of a suite"):
        run(folders, check=True)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run((tmp_path / "nowhere", tmp_path))


def test_sections_of_several_machines_stand_in_one_page(folders):
    first = cpu_document(folders[0])
    second = {**first, "host": "other-4t", "stem": "other"}
    page = benchmarks_page(
        {"cpu_decode": [first, second], "gpu_decode": [], "kernels": [], "long_context": [], "training": []}
    )
    assert re.findall(r"^### (.*)$", page, re.MULTILINE) == ["test-2t, 2026-01-02", "other-4t, 2026-01-02"]
    assert page.count("Not measured yet.") == 4


def test_show_prints_the_section(folders):
    document = cpu_document(folders[0])
    screen, text = console()
    show(folders[0] / f"{document['stem']}.json", screen)
    assert "**Greedy decoding, batch 1**" in text.getvalue()
    assert "svg" not in text.getvalue()
    gpu = gpu_document(folders[0])
    show(folders[0] / f"{gpu['stem']}.json", screen)
    assert "Copy bandwidth" in text.getvalue()
    kernels = kernel_document(folders[0])
    show(folders[0] / f"{kernels['stem']}.json", screen)
    assert "Whole attention" in text.getvalue()
    assert "svg" not in text.getvalue()


def test_the_committed_pages_are_what_the_committed_results_say():
    from experiments.benchmarks.command import DOCS, RESULTS

    screen, text = console()
    assert render(RESULTS, DOCS, check=True, console=screen) == 0, text.getvalue()


def test_suites_are_those_of_the_command():
    from experiments.benchmarks.command import SUITES

    assert set(rendering.SUITES) == set(SUITES)
