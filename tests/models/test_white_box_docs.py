"""docs/white_box.md says what the code does."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import safetensors.numpy

from experiments.golden_crate import drawn
from jaxdec.models.crate_classifier import published
from tests.checkpoints import crate_tensors
from tests.tiny_models import tiny_crate

PAGE = (Path(__file__).parents[2] / "docs" / "white_box.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_first_example_runs(capsys):
    exec(CODE[0], {"images": jnp.zeros((2, 8, 8, 1))})
    assert capsys.readouterr().out.count("layer_") == 4


@pytest.mark.slow
def test_weights_are_read_from_a_file(tmp_path):
    path = tmp_path / "tiny.safetensors"
    shapes = crate_tensors.classifier(published("tiny"))
    safetensors.numpy.save_file({name: drawn(name, shape) for name, shape in shapes.items()}, path)
    names = {"path": path, "images": jnp.zeros((1, 224, 224, 3))}
    exec(CODE[1], names)
    assert names["logits"].shape == (1, 1000)


def test_a_language_model_decodes():
    model = tiny_crate()
    names = {"module": model.module, "params": model.params}
    exec(CODE[2].replace("[72, 101, 108, 108, 111]", "[1, 2, 3]").replace("32", "4"), names)
    assert int(names["decoded"].length[0, 0]) == 4
    jax.clear_caches()


def test_what_the_page_names_is_there():
    root = Path(__file__).parents[2]
    for name in re.findall(r"--config=(\S+)", PAGE) + re.findall(r"`(jaxdec/[a-z_/]+\.py)`", PAGE):
        assert (root / name).exists(), name
