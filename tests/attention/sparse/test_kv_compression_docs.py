"""docs/kv_compression.md says what the code does."""

import importlib
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.attention.sparse.ada_snapkv import AdaSnapKV
from jaxdec.cache import ContiguousCache
from jaxdec.cache.evicted import EvictedCache

PAGE = (Path(__file__).parents[3] / "docs" / "kv_compression.md").read_text(encoding="utf-8")
LAYERS, BATCH, TOKENS, HEADS, KV_HEADS, WIDTH = 2, 1, 384, 4, 2, 8


@pytest.mark.slow
def test_examples_run():
    rng = np.random.default_rng(0)

    def normal(tokens, heads):
        return jnp.asarray(rng.normal(size=(BATCH, tokens, heads, WIDTH)), jnp.float32)

    lengths = jnp.array([TOKENS - 10])
    cache = ContiguousCache.create(
        num_layers=LAYERS, batch_size=BATCH, capacity=TOKENS, num_kv_heads=KV_HEADS, head_dim=WIDTH, dtype=jnp.float32
    )
    k = [normal(TOKENS, KV_HEADS) for _ in range(LAYERS)]
    for layer in range(LAYERS):
        cache = cache.append(layer, k[layer], normal(TOKENS, KV_HEADS))
    cache = cache.commit(None, lengths)
    names = {
        **{"cache": cache, "prompt_cache": cache, "layer": 1, "num_layers": LAYERS, "lengths": lengths},
        **{"queries": normal(1, HEADS), "keys": normal(1, KV_HEADS), "values": normal(1, KV_HEADS)},
        **{"q": [normal(TOKENS, HEADS) for _ in range(LAYERS)], "k": k, "count": jnp.array([1])},
        **{"AdaSnapKV": AdaSnapKV, "EvictedCache": EvictedCache},
    }
    pages, eviction = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(pages, names)
    assert names["out"].shape == (BATCH, 1, HEADS, WIDTH)
    assert names["cache"].length.tolist() == [TOKENS - 9]
    exec(eviction, names)
    assert names["cache"].length.tolist() == lengths.tolist()


def test_table_names_what_there_is():
    rows = re.findall(r"^\| `(jaxdec[\w.]+)` \|.*\| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for module, gives in rows:
        for name in re.findall(r"`([A-Za-z_]\w*)", gives):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
