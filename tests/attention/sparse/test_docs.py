"""docs/sparse_attention.md says what the code does."""

import importlib
import pkgutil
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.attention import sparse
from jaxdec.attention.sparse.block_sparse import BlockSparse
from jaxdec.attention.sparse.flex_prefill import FlexPrefill
from jaxdec.attention.sparse.selection import PrefillRule
from jaxdec.attention.sparse.vertical_slash import VerticalSlash
from jaxdec.context_rules import ATTENTION_RULES, attention_rule, kv_cache_rule

PAGE = (Path(__file__).parents[3] / "docs" / "sparse_attention.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_runs(capsys):
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 200, heads, 8)), jnp.float32) for heads in (2, 1, 1))
    names = {"q": q, "k": k, "v": v, "lengths": jnp.array([200, 150])}
    exec(code, names)
    assert names["out"].shape == q.shape
    assert not np.asarray(names["out"][1, 150:]).any()
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_rules_that_the_pages_name_are_there():
    pages = PAGE + (Path(__file__).parents[3] / "docs" / "kv_compression.md").read_text(encoding="utf-8")
    for argument, read in (("attention", attention_rule), ("kv_cache", kv_cache_rule)):
        asked = re.findall(rf"""{argument}=["']?(\w+:[\w.=,]+)""", pages)
        assert asked
        assert all(read(text) is not None for text in asked)
    (table,) = re.findall(r"\| `--attention` \|.*?\n\n", PAGE, re.DOTALL)
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(ATTENTION_RULES)


def test_table_has_all_rules_with_their_defaults():
    named = re.findall(r"^\| `(\w+)\.(\w+)` \|", PAGE, re.MULTILINE)
    rules = {getattr(importlib.import_module(f"jaxdec.attention.sparse.{module}"), name) for module, name in named}
    for module in pkgutil.iter_modules(sparse.__path__):
        importlib.import_module(f"jaxdec.attention.sparse.{module.name}")
    assert rules == {rule for rule in PrefillRule.__subclasses__() if rule.__module__.startswith("jaxdec.")}
    assert (BlockSparse().block, VerticalSlash().window, FlexPrefill().window) == (16, 256, 512)
    assert (VerticalSlash().sinks, VerticalSlash().local, VerticalSlash().tile) == (4, 64, 64)
