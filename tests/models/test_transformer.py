"""The transformer behind the contract: append, then commit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.decoding.prefill import prefill
from jaxdec.language_model import LanguageModel, LanguageModule
from jaxdec.models import DecoderConfig, RopeScaling, Transformer
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import TINY, tiny_transformer

KINDS = {
    "llama": {},
    "untied": {"tie_embeddings": False},
    "qwen2": {"architecture": "qwen2", "attention_bias": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True},
    "all biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "one query head per key": {"num_kv_heads": 4},
    "linear scaling": {"rope_scaling": RopeScaling("linear", 4.0)},
    "llama3 scaling": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16)},
}


@pytest.fixture(params=KINDS, scope="module")
def model(request):
    """Random weights; biases and norm scales are random too, or they would not show."""
    model = tiny_transformer(seed=3, scale=4.0, **KINDS[request.param])
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) if x.ndim == 1 else x for k, x in zip(keys, leaves)]
    return LanguageModel(model.module, jax.tree.unflatten(tree, noisy))


def reference_logits(model: LanguageModel, tokens: list[int]) -> np.ndarray:
    """The paper's equations in NumPy float64, one token after the other, no cache and no batch."""
    config, p = model.module.config, jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)
    heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_dim

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * scale

    def linear(x, layer):
        return x @ layer["weight"].T + layer.get("bias", 0)

    frequency = config.rope_theta ** (-np.arange(0, width, 2) / width)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        frequency = frequency / scaling.factor
    elif scaling is not None:
        for i, f in enumerate(frequency):
            wavelength = 2 * np.pi / f
            old = scaling.original_max_position_embeddings
            if wavelength > old / scaling.low_freq_factor:
                frequency[i] = f / scaling.factor
            elif wavelength >= old / scaling.high_freq_factor:
                smooth = (old / wavelength - scaling.low_freq_factor) / (
                    scaling.high_freq_factor - scaling.low_freq_factor
                )
                frequency[i] = (1 - smooth) * f / scaling.factor + smooth * f
    angle = np.outer(np.arange(len(tokens)), frequency)

    def rope(x):  # [T, heads, width]
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    x = p["embed"]["embedding"][tokens]
    for index in range(config.num_layers):
        layer = p[f"layer_{index}"]
        qkv = linear(norm(x, layer["attention_norm"]["scale"]), layer["attention"]["qkv"])
        q, k, v = np.split(qkv.reshape(len(tokens), -1, width), [heads, heads + kv_heads], axis=1)
        if config.qk_norm:
            q = norm(q, layer["attention"]["query_norm"]["scale"])
            k = norm(k, layer["attention"]["key_norm"]["scale"])
        q, k = rope(q), rope(k)
        out = np.zeros((len(tokens), heads, width))
        for t in range(len(tokens)):
            for head in range(heads):
                g = head // (heads // kv_heads)
                scores = k[: t + 1, g] @ q[t, head] / np.sqrt(width)
                weights = np.exp(scores - scores.max())
                out[t, head] = weights @ v[: t + 1, g] / weights.sum()
        x = x + linear(out.reshape(len(tokens), -1), layer["attention"]["output"])
        gate, up = np.split(linear(norm(x, layer["mlp_norm"]["scale"]), layer["mlp"]["gate_up"]), 2, axis=-1)
        x = x + linear(gate / (1 + np.exp(-gate)) * up, layer["mlp"]["down"])
    hidden = norm(x, p["final_norm"]["scale"])
    head_weight = p["embed"]["embedding"] if config.tie_embeddings else p["head"]["weight"]
    return hidden @ head_weight.T


def test_equals_the_equations(model):
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, 21).tolist()
    np.testing.assert_allclose(full_logits(model, tokens), reference_logits(model, tokens), atol=2e-3, rtol=1e-4)


@pytest.mark.slow
def test_in_float64_to_rounding():
    with jax.enable_x64(True):
        model = tiny_transformer(dtype=jnp.float64, scale=4.0)
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, 21).tolist()
        # The rotation is computed in float32 by design: positions are exact, angles are not.
        np.testing.assert_allclose(full_logits(model, tokens), reference_logits(model, tokens), atol=1e-4)


@pytest.mark.parametrize(
    "chunks", [[21], *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ([1] * 21, [5, 1, 9, 6]))]
)
def test_text_fed_in_pieces_gives_the_same_logits(chunks):
    model = tiny_transformer(scale=4.0)
    tokens = np.random.default_rng(1).integers(0, model.vocab_size, (2, 21))
    expected = np.stack([full_logits(model, row.tolist()) for row in tokens])
    cache, begin = model.init_cache(2, 21), 0
    for size in chunks:
        here = slice(begin, begin + size)
        positions = jnp.broadcast_to(jnp.arange(begin, begin + size), (2, size))
        logits, hidden, cache = model(jnp.asarray(tokens[:, here], jnp.int32), positions, cache)
        assert hidden.shape == (2, size, TINY.hidden_size)
        np.testing.assert_allclose(logits, expected[:, here], atol=1e-3)
        cache = cache.commit(None, jnp.full(2, size, jnp.int32))
        begin += size


def test_appending_commits_nothing():
    """The same tokens can be fed again; rejected ones leave no trace."""
    model = tiny_transformer(scale=4.0)
    cache = model.init_cache(1, 16)
    feed = jnp.asarray([[3, 1, 4]], jnp.int32)
    positions = jnp.arange(3)[None]
    first = model(feed, positions, cache)
    assert first.cache.length.tolist() == [0]
    wrong = model(feed + 7, positions, first.cache)
    again = model(feed, positions, wrong.cache)
    np.testing.assert_array_equal(first.logits, again.logits)


def test_a_tree_gives_each_branch_its_own_logits():
    """Two branches in one pass, each visible to itself alone, at the positions of their depth."""
    model = tiny_transformer(scale=4.0)
    text, branches = [5, 2, 9], [[7, 1], [8, 30]]
    _, cache = prefill(model, jnp.asarray([text], jnp.int32), jnp.asarray([3], jnp.int32), 16)
    tokens = jnp.asarray([[7, 8, 1, 30]], jnp.int32)
    visible = jnp.asarray([[[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]], bool)
    logits = model(tokens, jnp.asarray([[3, 3, 4, 4]]), cache, visible).logits[0]
    for branch, nodes in zip(branches, [(0, 2), (1, 3)]):
        expected = full_logits(model, text + branch)
        np.testing.assert_allclose(logits[jnp.asarray(nodes)], expected[3:], atol=1e-3)


def test_logits_at_names_the_wanted_ones():
    model = tiny_transformer(scale=4.0)
    tokens = jnp.asarray([[3, 1, 4, 1], [5, 9, 2, 6]], jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(4), (2, 4))
    every = model(tokens, positions, model.init_cache(2, 8)).logits
    some = model(tokens, positions, model.init_cache(2, 8), None, jnp.asarray([[3, 0], [1, 1]])).logits
    np.testing.assert_allclose(some, jnp.stack([every[0, [3, 0]], every[1, [1, 1]]]), atol=1e-5)


def test_is_a_language_module_and_counts_its_parameters():
    model = tiny_transformer()
    assert isinstance(model.module, LanguageModule)
    d, f, v = TINY.hidden_size, TINY.intermediate_size, TINY.vocab_size
    per_layer = d * (4 + 2 * 2) * 8 + 4 * 8 * d + 3 * d * f + 2 * d
    assert model.num_params() == v * d + TINY.num_layers * per_layer + d
    assert model.nbytes() == 4 * model.num_params()
    assert model.token_embeddings().shape == (v, d)


@pytest.mark.slow
def test_bfloat16_weights_and_float32_activations():
    model = tiny_transformer(dtype=jnp.bfloat16, scale=4.0)
    out = model(jnp.asarray([[1, 2]], jnp.int32), jnp.arange(2)[None], model.init_cache(1, 4))
    assert out.logits.dtype == out.hidden.dtype == jnp.float32
    assert out.cache.keys[0].dtype == jnp.bfloat16
    wide = LanguageModel(Transformer(TINY), jax.tree.map(lambda x: x.astype(jnp.float32), model.params))
    np.testing.assert_allclose(full_logits(model, [1, 2]), full_logits(wide, [1, 2]), atol=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gpt2"}, "architecture must be one of llama, qwen2, qwen3, got 'gpt2'"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_kv_heads": 3}, r"num_heads \(4\) must be a multiple of num_kv_heads \(3\)"),
        ({"head_dim": 7}, "head_dim must be even for rotary positions, got 7"),
    ],
)
def test_shapes_without_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DecoderConfig(**{**dataclasses.asdict(TINY), **changes})


def test_rope_scalings_without_sense_are_refused():
    with pytest.raises(ValueError, match="kind of rope scaling must be 'linear' or 'llama3', got 'yarn'"):
        RopeScaling("yarn", 2.0)
    with pytest.raises(ValueError, match="factor of rope scaling must be positive and finite, got 0"):
        RopeScaling("linear", 0.0)
