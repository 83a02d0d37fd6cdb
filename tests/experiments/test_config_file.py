"""Config files set flags and fields, and unknown ones are refused."""

import pytest
from absl import flags

from experiments.config_file import apply_config, read_config


@pytest.fixture
def values():
    values = flags.FlagValues()
    flags.DEFINE_integer("steps", 3, "", flag_values=values)
    flags.DEFINE_float("rate", 0.5, "", flag_values=values)
    flags.DEFINE_string("name", None, "", flag_values=values)
    flags.DEFINE_string("other", None, "", flag_values=values)
    flags.DEFINE_bool("fast", False, "", flag_values=values)
    flags.DEFINE_multi_string("stop", [], "", flag_values=values)
    return values


def write(tmp_path, body):
    path = tmp_path / "config.py"
    path.write_text(body)
    return path


def config_of(tmp_path, fields):
    return write(
        tmp_path, f"import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({fields!r})\n"
    )


def apply(tmp_path, values, fields, *arguments, rivals=None):
    values(["program", *arguments])
    names = ["steps", "rate", "name", "other", "fast", "stop"]
    apply_config(config_of(tmp_path, fields), values, names, rivals or {})
    return values


def test_fields_set_flags(tmp_path, values):
    fields = {"steps": 7, "rate": 2, "name": "x", "fast": True, "stop": ("a", "b"), "other": None}
    apply(tmp_path, values, fields)
    assert (values.steps, values.rate, values.name, values.fast, values.stop) == (7, 2.0, "x", True, ["a", "b"])
    assert isinstance(values.rate, float)
    assert values.other is None


def test_the_command_line_wins(tmp_path, values):
    apply(tmp_path, values, {"steps": 7, "name": "x", "stop": "z"}, "--steps=3", "--stop=a", "--stop=b")
    assert (values.steps, values.name, values.stop) == (3, "x", ["a", "b"])  # 3 is also the default


def test_one_text_is_one_stop_string(tmp_path, values):
    assert apply(tmp_path, values, {"stop": "abc"}).stop == ["abc"]


def test_a_rival_given_on_the_command_line_wins_too(tmp_path, values):
    rivals = {"name": "other", "other": "name"}
    apply(tmp_path, values, {"name": "x", "steps": 4}, "--other=y", rivals=rivals)
    assert (values.name, values.other, values.steps) == (None, "y", 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 1}, "unknown field 'step'; known: fast, name, other, rate, steps, stop"),
        ({"steps": "many"}, "field 'steps': invalid literal"),
        ({"steps": 1.5}, "field 'steps': Expect argument to be a string or int"),
        ({"steps": True}, "field 'steps': Expect argument to be a string or int"),
        ({"name": 5}, "field 'name': flag value must be a string"),
        ({"stop": [1]}, "field 'stop': flag value must be a string"),
        ({"stop": 1}, "field 'stop': 'int' object is not iterable"),
        ({"fast": "perhaps"}, "field 'fast': Non-boolean argument"),
    ],
)
def test_wrong_fields(tmp_path, values, fields, message):
    with pytest.raises(ValueError) as error:
        apply(tmp_path, values, fields)
    assert f"--config={tmp_path / 'config.py'}: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import not_there_at_all\n", "line 1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("config = 1\n", "AttributeError: module 'config' has no attribute 'get_config'"),
        ("def get_config():\n    raise KeyError('a')\n", "line 2: KeyError: 'a'"),
        ("def get_config():\n    return 5\n", "AttributeError: 'int' object has no attribute 'items'"),
        ("def get_config(text):\n    return {}\n", "TypeError: get_config() missing 1 required positional argument"),
        ("\x00", "source code string cannot contain null bytes"),
    ],
)
def test_broken_files_are_one_line_errors(tmp_path, body, message):
    path = write(tmp_path, body)
    with pytest.raises(ValueError) as error:
        read_config(path)
    assert str(error.value).startswith(f"--config={path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_config(tmp_path / "nowhere.py")
    with pytest.raises(ValueError, match="not a Python file"):
        read_config(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match="not a Python file"):
        read_config(tmp_path / "config.yaml")
