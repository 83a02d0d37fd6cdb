"""docs/kernels.md says of the backends what the code says."""

import importlib
import pkgutil
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import pallas_kernels
from pallas_kernels import decode_attention, merge, prefix_attention

PAGE = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()


def test_table_of_backends_is_what_the_code_has():
    table = {
        operation: re.findall("`(.*?)`", backends)
        for operation, backends in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    }
    modules = [
        importlib.import_module(f"pallas_kernels.{found.name}")
        for found in pkgutil.iter_modules(pallas_kernels.__path__)
    ]
    assert table == {
        module.__name__.rpartition(".")[2]: list(module.BACKENDS) for module in modules if hasattr(module, "BACKENDS")
    }


def test_example_runs():
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {
        "q": jnp.ones((3, 4, 8)),
        "prefix_k": jnp.ones((1, 5, 2, 8)),
        "prefix_v": jnp.ones((1, 5, 2, 8)),
        "k": jnp.ones((3, 6, 2, 8)),
        "v": jnp.ones((3, 6, 2, 8)),
        "lengths": jnp.array([5, 0, 2]),
    }
    exec(code, names)
    assert names["merge"] is merge
    assert (names["prefix_attention"], names["decode_attention"]) == (prefix_attention, decode_attention)
    assert names["o"].shape == (3, 4, 8)
    assert names["lse"].shape == (3, 4)


def test_examples_of_selected_keys_run():
    _, prompts, pages = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    keys = jnp.ones((2, 150, 2, 8))
    names = {
        **{"q": jnp.ones((2, 150, 4, 8)), "k": keys, "v": keys, "lengths": jnp.array([150, 7])},
        **{"block_index": jnp.array([1, 0]) * jnp.ones((2, 4, 2, 1), int), "num_blocks": jnp.full((2, 4, 2), 2)},
    }
    exec(prompts, names)
    assert names["o"].shape == (2, 150, 4, 8)
    np.testing.assert_allclose(names["lse"][0, :, 0] - names["lse"][0, 0, 0], np.log(1 + np.arange(150)), atol=1e-5)
    slots = jnp.ones((2, 2, 64, 8))
    names = {
        **{"q": jnp.ones((2, 1, 4, 8)), "k": slots, "v": slots, "lengths": jnp.array([50, 7])},
        **{"page_index": jnp.array([3, 0]) * jnp.ones((2, 2, 1, 1), int), "num_pages": jnp.full((2, 2, 1), 2)},
    }
    exec(pages, names)
    np.testing.assert_allclose(names["o"], 1, rtol=1e-6)
    np.testing.assert_allclose(names["lse"][:, 0, 0], 8**0.5 + np.log([18, 7]), rtol=1e-6)
