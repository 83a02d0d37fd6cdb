"""Every notebook runs from top to bottom: one on a tiny model always, all of them and on the real one in the slow tests."""

import ast
import json
import re
from pathlib import Path

import jax
import pytest

import jaxdec
from experiments.benchmarks.smoke_model import write_smoke_model

FOLDER = Path(__file__).resolve().parents[2] / "colab"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
IN_A_HURRY = "white_box.ipynb"
REAL = pytest.param("smollm2-135m-instruct", marks=[pytest.mark.model, pytest.mark.slow])


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def sources(name, kind):
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == kind]


@pytest.fixture(params=["tiny", REAL])
def model(request, tmp_path_factory, monkeypatch):
    """What every name loads."""
    before = jax.config.values["jax_disable_most_optimizations"]
    if request.param == "tiny":
        jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is compiling
        path = write_smoke_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    lm = jaxdec.load(request.param if request.param != "tiny" else str(path))
    monkeypatch.setattr(jaxdec, "load", lambda name, **options: lm, raising=False)
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None, raising=False)
    yield request.param
    jax.config.update("jax_disable_most_optimizations", before)


def test_there_are_notebooks():
    assert {"shared_prefixes.ipynb", "white_box.ipynb"} <= set(NOTEBOOKS)


@pytest.mark.parametrize(
    "name", [name if name == IN_A_HURRY else pytest.param(name, marks=pytest.mark.slow) for name in NOTEBOOKS]
)
def test_cells_run_in_order(name, model, capsys):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = {}
    for index, cell in enumerate(sources(name, "code")):
        if model == "tiny":
            cell = cell.replace("steps = 600", "steps = 3")
        exec(compile(cell, f"{name}, code cell {index}", "exec"), names)
    plt.close("all")
    told = capsys.readouterr().out
    assert told
    if model != "tiny" and name == "shared_prefixes.ipynb":
        assert re.search(r"Bruno: ' black", told)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_stored_without_output_and_with_plain_cells(name):
    notebook = read(name)
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert cells[0]["cell_type"] == "markdown"
    for cell in cells:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))  # no magics: what runs here runs anywhere


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_link_to_what_is_there_and_use_public_names(name):
    for text in sources(name, "markdown"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (FOLDER / target).exists(), target
    for cell in sources(name, "code"):
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxdec":
                assert node.attr in jaxdec.__all__, node.attr
