"""Parts are computed once per key, and again when anything that they depend on changes."""

import json
import types

import pytest

from experiments.papers.parts import Parts


def module_of(path):
    return types.SimpleNamespace(__file__=str(path))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "replica.py"
    path.write_text("x = 1\n")
    return path


def values_of(folder, source, config, values):
    """What two parts give when ``values`` are what computing them would give."""
    parts = Parts.open(folder, config, [module_of(source)])
    return [parts.get(name, lambda value=value: value) for name, value in zip("ab", values)]


def test_a_part_is_computed_once(tmp_path, source):
    folder = tmp_path / "parts"
    config = {"widths": (6, 12), "x": 0.5}
    assert values_of(folder, source, config, [{"n": 1}, [2.5]]) == [{"n": 1}, [2.5]]
    assert values_of(folder, source, config, [3, 4]) == [{"n": 1}, [2.5]]
    (folder / "a.json").unlink()
    assert values_of(folder, source, config, [5, 6]) == [5, [2.5]]
    assert (folder / ".gitignore").read_text() == "*\n"


def test_another_config_or_other_code_makes_it_anew(tmp_path, source):
    folder = tmp_path / "parts"
    values_of(folder, source, {"x": 1}, [1, 2])
    assert values_of(folder, source, {"x": 2}, [3, 4]) == [3, 4]
    source.write_text("x = 2\n")
    assert values_of(folder, source, {"x": 2}, [5, 6]) == [5, 6]
    (folder / "a.json").write_text('{"key": ')  # cut short
    assert values_of(folder, source, {"x": 2}, [7, 8]) == [7, 6]


def test_an_interrupted_part_leaves_nothing(tmp_path, source):
    parts = Parts.open(tmp_path / "parts", {}, [module_of(source)])

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.get("a", interrupted)
    assert sorted(path.name for path in parts.folder.iterdir()) == [".gitignore"]
    with pytest.raises(TypeError):
        parts.get("a", lambda: {1j})
    assert parts.get("a", lambda: 1) == 1


def test_seconds_add_up_over_the_parts_of_this_key(tmp_path, source):
    folder = tmp_path / "parts"
    values_of(folder, source, {"x": 1}, [1, 2])
    parts = Parts.open(folder, {"x": 2}, [module_of(source)])
    assert parts.seconds() == 0
    parts.get("a", lambda: 1)
    assert parts.seconds() == json.loads((folder / "a.json").read_text())["seconds"] > 0


def test_folders_belong_to_their_key(tmp_path, source):
    first = Parts.open(tmp_path, {"x": 1}, [module_of(source)]).subfolder("model")
    (first / "weights").write_text("w")
    assert Parts.open(tmp_path, {"x": 1}, [module_of(source)]).subfolder("model") == first
    assert (first / "weights").exists()
    second = Parts.open(tmp_path, {"x": 2}, [module_of(source)]).subfolder("model")
    assert second != first
    assert not first.exists()
