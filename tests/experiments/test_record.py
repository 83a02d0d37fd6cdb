"""Results are written whole, with what they were made with."""

import json
import math
import os
import subprocess

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import record
from experiments.record import cpu_info, environment, markdown_table, sources_digest, write_json, write_text


def test_json_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    assert write_json(path, {"a": [1, None, "ä"]}) == path
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, None, "ä"]}
    assert path.read_bytes().endswith(b"\n")
    write_json(path, [])
    assert json.loads(path.read_text()) == []
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["result.json"]


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "result.json"
    write_json(path, {"old": True})

    def interrupt(*_, **__):
        assert len(os.listdir(tmp_path)) == 2  # the draft is there
        raise KeyboardInterrupt

    if moment == "replace":
        monkeypatch.setattr(record.os, "replace", interrupt)
    else:
        monkeypatch.setattr(record.os, "fdopen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    ("value", "error"), [(math.nan, ValueError), ([math.inf], ValueError), ({"a": {1}}, TypeError)]
)
def test_what_is_no_json_leaves_the_old_file(tmp_path, value, error):
    path = tmp_path / "result.json"
    write_json(path, 1)
    with pytest.raises(error):
        write_json(path, value)
    assert path.read_text() == "1\n"


def test_the_environment_says_what_a_result_needs():
    said = environment()
    json.dumps(said, allow_nan=False)
    assert said["jax"] == jax.__version__
    assert said["backend"] == jax.default_backend()
    assert said["device_kind"] == jax.devices()[0].device_kind
    assert said["cores"] >= 1
    assert said["date"].endswith("+00:00")
    assert set(said) >= {"commit", "dirty", "python", "jaxlib", "platform", "num_devices", "cpu_model", "cpu_flags"}


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_project_and_of_no_folder_around_it(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("a")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "m")
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    monkeypatch.setattr(record, "PROJECT_ROOT", tmp_path)
    assert (environment()["commit"], environment()["dirty"]) == (head.stdout.strip(), False)
    (tmp_path / "inside" / "file").write_text("b")
    assert environment()["dirty"] is True
    monkeypatch.setattr(record, "PROJECT_ROOT", tmp_path / "inside")
    assert (environment()["commit"], environment()["dirty"]) == (None, None)


def test_without_git_the_commit_is_not_known(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx fma avx512f avx512_vnni\nflags: other\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86 * 2, {"model": "AMD EPYC", "flags": ["avx", "avx2", "fma", "avx512f", "avx512_vnni"]}),
        (ARM, {"model": None, "flags": ["asimd", "asimddp", "i8mm"]}),
        ("", {"model": None, "flags": []}),
    ],
)
def test_cpu_info(tmp_path, text, expected):
    path = tmp_path / "cpuinfo"
    path.write_text(text.replace("flags: other\n", ""))
    assert cpu_info(path) == expected


def test_cpu_info_without_the_file(tmp_path):
    assert cpu_info(tmp_path / "nothing")["flags"] == []


def test_the_digest_of_the_sources_sees_every_change(tmp_path):
    def digest(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(content)
        return sources_digest(tmp_path)

    seen = [digest(jaxdec__a="1"), digest(jaxdec__a="2"), digest(jaxdec__b=""), digest(experiments__x__y="1")]
    seen.append(digest(pallas_kernels__z="1"))
    assert len(set(seen)) == 5
    assert digest(tests__t="1") == seen[-1]  # not a source of anything measured
    assert digest(jaxdec__a="1", jaxdec__b="2") != digest(jaxdec__a="12", jaxdec__b="")
    before = digest(jaxdec__a="3")
    (tmp_path / "jaxdec" / "a.py").rename(tmp_path / "jaxdec" / "aa.py")
    assert sources_digest(tmp_path) != before  # a name counts
    assert len(sources_digest()) == 64


def test_tables():
    rows = [[1, 0.123456, None], ["a|b", 1234.5, "two\nlines"], [True, -0.5, 999.96]]
    assert markdown_table(["x", "y", "z"], rows) == (
        "| x | y | z |\n| --- | --- | --- |\n| 1 | 0.123 | - |\n| a\\|b | 1234 | two lines |\n| True | -0.5 | 1e+03 |\n"
    )
    with pytest.raises(ValueError, match=r"row \[1\] has 1 cells, the header 3"):
        markdown_table(["x", "y", "z"], [[1]])


@given(st.lists(st.lists(st.text() | st.floats() | st.none() | st.integers(), min_size=2, max_size=2), max_size=4))
def test_tables_are_tables_whatever_the_cells(rows):
    lines = markdown_table(["a", "b"], rows).replace("\\|", "").split("\n")
    assert lines.pop() == ""
    assert [line.count("|") for line in lines] == [3] * (len(rows) + 2)
