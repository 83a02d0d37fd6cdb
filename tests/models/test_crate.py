"""The layers of CRATE beside their equations in NumPy, and what follows from these."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdec.models.crate import SIZES, CrateConfig, CrateLayer, OvercompleteCoding, SparseCoding, SubspaceAttention

CONFIG = CrateConfig(hidden_size=12, num_layers=1, num_heads=3, head_dim=5)
KINDS = {
    "published": {},
    "no output bias": {"output_bias": False},
    "tied": {"tie_output": True},
    "alpha": {"overcomplete": True, "output_bias": False, "norm_eps": 1e-6},
}
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 12)), jnp.float32)


def noisy(params, seed: int = 1):
    """Biases and scales away from what they begin with, or they would not show."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def norm(x, p, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def attention(x, p, config):
    batch, tokens, _ = x.shape
    inside = (x @ p["bases"].T).reshape(batch, tokens, config.num_heads, -1)
    out = np.zeros_like(inside)
    for head in range(config.num_heads):
        w = inside[:, :, head]
        scores = np.exp(w @ w.swapaxes(1, 2) / np.sqrt(w.shape[-1]))
        out[:, :, head] = scores / scores.sum(-1, keepdims=True) @ w
    output = p["bases"] if config.tie_output else p["output"].T
    return out.reshape(batch, tokens, -1) @ output + p.get("output_bias", 0)


def coded(x, p, config):
    eta, lam, d = config.step_size, config.threshold, p["dictionary"]
    if not config.overcomplete:
        return np.maximum(x + eta * (x @ d - x @ d.T @ d) - eta * lam, 0)
    first = np.maximum(eta * x @ d - eta * lam, 0)
    second = np.maximum(first - eta * (first @ d.T - x) @ d - eta * lam, 0)
    return second @ p["decoder"].T


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equations(kind):
    config = dataclasses.replace(CONFIG, **KINDS[kind])
    module = CrateLayer(config)
    params = noisy(jax.jit(module.init)(jax.random.key(0), X)["params"])
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = np.asarray(X, np.float64)
    between = x + attention(norm(x, p["attention_norm"], config.norm_eps), p["attention"], config)
    codes = coded(norm(between, p["coding_norm"], config.norm_eps), p["coding"], config)
    expected = between + codes if config.overcomplete else codes
    found = jax.jit(module.apply)({"params": params}, X)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_codes_are_not_negative_and_tokens_do_not_meet_in_coding():
    module = SparseCoding(dataclasses.replace(CONFIG, threshold=2.0))
    variables = module.init(jax.random.key(0), X)
    apply = jax.jit(module.apply)
    codes, changed = np.asarray(apply(variables, X)), X.at[:, 3].add(1)
    assert codes.min() == 0
    assert 0 < (codes > 0).mean() < 1
    others = np.delete(np.arange(7), 3)
    np.testing.assert_array_equal(np.asarray(apply(variables, changed))[:, others], codes[:, others])


def test_a_step_lowers_the_lasso_up_to_the_bound_on_the_step():
    """From non-negative codes, while ``eta <= 1 / |D|^2``; far above the bound it rises."""
    rng = np.random.default_rng(2)
    d, x = rng.normal(size=(12, 12)) / 4, np.abs(rng.normal(size=(1, 30, 12)))

    def objective(z):
        return 0.1 * np.abs(z).sum() + 0.5 * ((x - z @ d.T) ** 2).sum()

    bound = 1 / np.linalg.norm(d, 2) ** 2
    after = {}
    for times in (1.0, 20.0):
        module = SparseCoding(dataclasses.replace(CONFIG, step_size=times * bound, threshold=0.1))
        variables = {"params": {"dictionary": jnp.asarray(d, jnp.float32)}}
        after[times] = objective(np.asarray(module.apply(variables, jnp.asarray(x, jnp.float32)), np.float64))
    assert after[1.0] < objective(x) < after[20.0]


def test_attention_mixes_and_knows_no_order():
    module = SubspaceAttention(CONFIG)
    variables = module.init(jax.random.key(0), X)
    apply = jax.jit(module.apply)
    out, order = np.asarray(apply(variables, X)), np.random.default_rng(3).permutation(7)
    np.testing.assert_allclose(apply(variables, X[:, order]), out[:, order], rtol=1e-5, atol=1e-6)
    changed = X.at[:, 3].add(1)
    assert np.abs(np.asarray(apply(variables, changed)) - out)[:, 0].max() > 1e-4


def test_a_dictionary_that_decodes_to_nothing_leaves_the_stream_alone():
    config = dataclasses.replace(CONFIG, overcomplete=True)
    module = OvercompleteCoding(config)
    variables = module.init(jax.random.key(0), X)
    out, notes = module.apply(variables, X, mutable=["intermediates"])
    assert notes["intermediates"]["codes"][0].shape == (2, 7, 48)
    assert np.abs(out).max() > 0
    silent = {"params": {**variables["params"], "decoder": jnp.zeros((12, 48))}}
    np.testing.assert_array_equal(module.apply(silent, X), np.zeros_like(X))


def test_layers_note_what_the_figures_show():
    module = CrateLayer(CONFIG)
    variables = module.init(jax.random.key(0), X)
    out, notes = module.apply({"params": variables["params"]}, X, mutable=["intermediates"])
    notes = notes["intermediates"]
    np.testing.assert_array_equal(notes["coding"]["codes"][0], out)
    assert notes["attention"]["subspace_tokens"][0].shape == (2, 3, 7, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 10, "head_dim": None}, "hidden_size .10. must be a multiple of num_heads .3."),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"head_dim": 0}, "head_dim must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive, got 0.0"),
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ],
)
def test_shapes_without_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_published_sizes():
    assert {name: (c.hidden_size, c.num_heads, c.num_layers, c.subspace_dim) for name, c in SIZES.items()} == {
        "tiny": (384, 6, 12, 64),
        "small": (576, 12, 12, 48),
        "base": (768, 12, 12, 64),
        "large": (1024, 16, 24, 64),
    }
