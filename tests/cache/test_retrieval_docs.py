"""docs/actqkv.md says what the code does, and what it feeds in chunks reads as much as dense attention while it has room."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding.chunks import append_tokens
from tests.tiny_models import TINY, tiny_transformer

PAGE = (Path(__file__).parents[2] / "docs" / "actqkv.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_runs_and_reads_everything():
    model = tiny_transformer(scale=4.0, num_layers=1)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, TINY.vocab_size, (2, 270)), jnp.int32)
    names = {"model": model, "tokens": tokens, "length": jnp.asarray([270, 185], jnp.int32)}
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(example, names)
    cache, rule = names["cache"], names["rule"]
    assert cache.length.tolist() == [270, 185]
    wanted, _ = jax.jit(append_tokens)(model, model.init_cache(2, 384), tokens, names["length"])
    np.testing.assert_allclose(names["logits"], wanted, atol=1e-3)
    before = jnp.asarray([180, 180])  # three passes of 90 tokens
    np.testing.assert_array_equal(cache.blocks, rule.num_blocks(before)[:, None])
    assert (cache.tokens_read == 270).all(), "padding is read too"


def test_table_names_what_there_is():
    rows = re.findall(r"^\| `(jaxdec[\w.]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for module, gives in rows:
        for name in re.findall(r"`([A-Za-z_]\w*)`", gives):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
