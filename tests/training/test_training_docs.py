"""docs/training.md says what the code does."""

import re
from pathlib import Path

import pytest

from experiments.training.command import define_flags
from experiments.training_data import FIELDS as DATA_FIELDS
from experiments.training_recipes import FIELDS as RECIPE_FIELDS
from jaxdec.training.optimizers import OPTIMIZERS, SCHEDULES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_name_is_on_the_page():
    for names in (DATA_FIELDS, RECIPE_FIELDS, OPTIMIZERS, SCHEDULES):
        assert all(f"`{name}`" in PAGE for name in names)


def test_every_flag_of_the_page_is_one():
    known = {*define_flags(), "logdir"}
    assert set(re.findall(r"--(\w+)", PAGE)) <= known


@pytest.mark.slow
def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    step, accuracy = re.search(r"^(\d+) .*'accuracy': ([0-9.]+)", capsys.readouterr().out).groups()
    assert step == "200"
    assert float(accuracy) > 0.9
