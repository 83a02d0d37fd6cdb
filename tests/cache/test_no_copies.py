"""A step writes its new entries in place: no layout makes XLA copy what it holds."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxdec.attention.sparse.actqkv import ActQKV
from jaxdec.attention.sparse.quest import Quest
from jaxdec.cache import ContiguousCache
from jaxdec.cache.retrieval import RetrievalCache
from jaxdec.cache.summarised import SummarisedCache
from tests.tiny_models import tiny_transformer

CAPACITY = 16384  # XLA fuses, and copies, by size
SIZES = {"num_layers": 2, "batch_size": 1, "num_kv_heads": 3, "head_dim": 64}
MODEL = {"num_heads": 9, "num_kv_heads": 3, "head_dim": 64, "hidden_size": 64}


def contiguous():
    return ContiguousCache.create(**SIZES, capacity=CAPACITY, dtype=jnp.float32)


def retrieval():
    rule = ActQKV(block_size=16, sinks=16, local=64, window=32, top_blocks=4)
    rotation = tiny_transformer(**MODEL).module.rotation  # type: ignore[attr-defined]
    sizes = {**SIZES, "capacity": CAPACITY, "num_heads": MODEL["num_heads"], "dtype": jnp.float32}
    return RetrievalCache.create(**sizes, rule=rule, rotation=rotation)


LAYOUTS = {
    "contiguous": contiguous,
    "summarised": lambda: SummarisedCache.of(contiguous(), Quest(budget=1024), 1),
    "retrieval": retrieval,
}


def copies(cache):
    """Copies of whole buffers in the program of a loop over steps."""
    model = tiny_transformer(**MODEL)
    held = cache if isinstance(cache, ContiguousCache) else getattr(cache, "inner", None) or cache.held
    buffers = [held.keys[0], *(summary.low for summary in getattr(cache, "summaries", ())[:1])]
    shapes = [",".join(map(str, buffer.shape)) for buffer in buffers]

    leaves, layout = jax.tree.flatten(cache)  # lowering builds trees of descriptions, which are no arrays

    def steps(leaves, count):
        def once(_, carry):
            token, cache = carry
            output = model(token[:, None], cache.length[:, None], cache)
            token = output.logits[:, 0].argmax(-1).astype(jnp.int32)
            return token, output.cache.commit(None, jnp.ones(1, jnp.int32))

        first = (jnp.zeros(1, jnp.int32), jax.tree.unflatten(layout, leaves))
        return jax.tree.leaves(jax.lax.fori_loop(0, count, once, first))

    program = jax.jit(steps, donate_argnums=0).lower(leaves, 3).compile().as_text()
    assert all(f"f32[{shape}]" in program for shape in shapes)
    return [copy for shape in shapes for copy in re.findall(rf"= f32\[{shape}\]\S* copy\(", program)]


@pytest.mark.parametrize("name", ["contiguous", "summarised", pytest.param("retrieval", marks=pytest.mark.slow)])
def test_steps_copy_no_buffer(name):
    assert not copies(LAYOUTS[name]())


def test_reading_reshaped_buffers_is_seen(monkeypatch):
    """What layouts must not do, so that the test above can fail: read in a loop what was reshaped before, in two ways."""

    def attention(queries, keys, values, length, summary, rule, visible):
        flat, pages = (
            [side.reshape(shape) for side in (keys, values)]
            for shape in ((-1, keys.shape[3]), (-1, rule.page_size, keys.shape[3]))
        )

        def of_head(head):
            newest = (jax.lax.dynamic_slice_in_dim(side, head * CAPACITY + length[0], 16).sum(axis=0) for side in flat)
            return sum(newest, sum(side[8 * head + jnp.arange(4)].sum(axis=(0, 1)) for side in pages))

        out = jnp.repeat(jax.lax.map(of_head, jnp.arange(keys.shape[1])), 3, axis=0)
        return queries * out, queries[..., 0]

    monkeypatch.setattr("jaxdec.cache.summarised.quest_attention", attention)
    assert copies(LAYOUTS["summarised"]())
