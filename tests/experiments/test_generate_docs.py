"""What the pages and the example config say can be run does run: on a tiny model always, on the real one in the slow tests."""

import ast
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxdec
from configs.generate import colours
from experiments import datastore, generate, trace
from experiments.benchmarks.smoke_model import write_smoke_model
from experiments.interrupts import Interrupts
from jaxdec import speculation
from jaxdec.checkpoints import registry, vocabulary
from jaxdec.decoding.methods import DRAFTERS, METHODS, build_method
from jaxdec.decoding.sampling import GREEDY, Sampling
from jaxdec.decoding.speculative import step_cost, verification

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/generate.md", "docs/speculative.md", "docs/shared_prefixes.md")
FEW = 12  # tokens
LAUNCHERS = {f"experiments.{module.__name__.split('.')[-1]}": module.main for module in (datastore, generate, trace)}


def blocks(page, language):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page):
    """Lines of the shell blocks that a checkout can run; installing is what CI does with the README's first two blocks."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if "pip install" not in line]


REAL = pytest.param("smollm2-135m-instruct", marks=[pytest.mark.model, pytest.mark.slow])


@pytest.fixture(scope="module", params=["tiny", REAL])
def model(request, tmp_path_factory):
    """The model that all names stand for, loaded once."""
    if request.param != "tiny":
        yield jaxdec.load(request.param)
        return
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time is compiling
    yield jaxdec.load(str(write_smoke_model(tmp_path_factory.mktemp("model") / "tiny.gguf")))
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def quick(model, monkeypatch):
    """Decode a few tokens with a model that is there, and leave jax's settings alone."""
    start = jaxdec.Run.__init__

    def few(self, *arguments, max_new_tokens=128, **options):
        start(self, *arguments, max_new_tokens=min(max_new_tokens, FEW), **options)

    monkeypatch.setattr(jaxdec.Run, "__init__", few)
    monkeypatch.setattr(jaxdec, "load", lambda name, **options: model, raising=False)
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None, raising=False)
    monkeypatch.setattr(registry, "resolve", lambda name: name)
    read = vocabulary.Vocabulary(model.tokenizer, model.model.vocab_size)
    monkeypatch.setattr(vocabulary, "read_vocabulary", lambda path: read)
    for module in (speculation, step_cost):  # no timings here
        monkeypatch.setattr(module, "relative_step_cost", lambda _, counts, batch=1: {n: 1 + 0.1 * n for n in counts})
    return model


@pytest.mark.parametrize("page", [PAGES[0], *(pytest.param(page, marks=pytest.mark.slow) for page in PAGES[1:])])
def test_python_blocks_run(page, quick, capsys):
    found = blocks(page, "python")
    assert found
    names = {}
    for block in found:
        exec(compile(block, page, "exec"), names)
    assert "Paris" in capsys.readouterr().out or quick.name != "smollm2-135m-instruct"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number"), [("docs/generate.md", 9), ("docs/speculative.md", 7), ("docs/shared_prefixes.md", 2)]
)
def test_shell_blocks_run(page, number, quick, tmp_path, monkeypatch, capsys):
    found = commands(page)
    assert len(found) >= number
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    for line in found:
        if not line.startswith("python -m "):
            subprocess.run(["sh", "-c", line], check=True)
            continue
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"]
        assert LAUNCHERS[words[2]](words[2:], Interrupts("")) == 0, line
        output = capsys.readouterr().out
        if "--json" in words:
            assert json.loads(output)["new_tokens"] > 0
        else:
            assert output or "--out" in line
    name, ids = {
        "docs/generate.md": ("answers.jsonl", ["joke", 1]),
        "docs/speculative.md": ("said.jsonl", [0, 1]),
        "docs/shared_prefixes.md": ("said_words.jsonl", [0, 1]),
    }[page]
    answers = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ids
    assert (tmp_path / "trace.html").exists() == (page == "docs/speculative.md")


@pytest.mark.model
@pytest.mark.slow
def test_the_example_config_says_what_it_prints(monkeypatch, capsys):
    monkeypatch.setattr(jaxdec, "enable_compilation_cache", lambda: None, raising=False)
    docstring = colours.__doc__ or ""
    (line,) = re.findall(r"^    python -m (.*)$", docstring, re.MULTILINE)
    (expected,) = re.findall(r"first is\n\n((?:    .*\n)+)", docstring)
    monkeypatch.chdir(ROOT)
    assert generate.main(shlex.split(line), Interrupts("")) == 0
    assert capsys.readouterr().out.startswith(expected.replace("    ", ""))


def test_the_page_names_every_flag_and_no_other():
    from experiments.generate_flags import define_flags

    page = (ROOT / "docs/generate.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `--"))
    assert set(re.findall(r"`--(\w+)`", table)) == set(define_flags()) - {"help"}


def test_the_page_says_what_methods_are_and_guarantee():
    page = (ROOT / "docs/generate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)[^|]*\| (.*?) \| `(\w+)`, (.*?) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(METHODS)
    for row in rows:
        method = build_method(row[0])
        when = "as it is decoded" if method.incremental else "at the end"
        assert row[1:] == (type(method).__name__, when, str(method.guarantee), method.reference)


def test_the_page_of_speculative_decoding_names_every_option():
    page = (ROOT / "docs/speculative.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| ", page, re.MULTILINE)
    own = {"sampling": "that of the target", "settings": "`puct.Settings()`"}
    expected = [
        (name, "tree_size" if field.name == "num_nodes" else field.name, own.get(field.name, repr(field.default)))
        for name, drafter in DRAFTERS.items()
        for field in dataclasses.fields(drafter)
    ]
    assert rows == expected
    assert re.findall(r"^\| `(\w+)` \| [^`]*? \| [^`]* \|$", page, re.MULTILINE) == list(DRAFTERS)


def test_the_page_of_speculative_decoding_tells_the_guarantees():
    page = (ROOT / "docs/speculative.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["ExactMatch", "SpeculativeSampling", "TypicalAcceptance"]
    for name, *guarantees in rows:
        rule = getattr(verification, name)()
        assert guarantees == [str(rule.guarantee(sampling)) for sampling in (GREEDY, Sampling())]


def test_the_page_names_every_field():
    page = (ROOT / "docs/generate.md").read_text(encoding="utf-8")
    fields = set(jaxdec.Generation.__dataclass_fields__)
    section = page[page.index("### One JSON object") : page.index("### Files of prompts")]
    assert fields <= set(re.findall(r"`(\w+)`", section))


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_parse_and_use_public_names(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxdec":
                assert node.attr in jaxdec.__all__, f"{page}: jaxdec.{node.attr}"


def test_links_of_the_page_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_module_can_be_found_as_the_page_says():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.generate", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("Generate text from the command line.")
    assert "--max_new_tokens" in done.stdout
