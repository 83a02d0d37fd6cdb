"""The key-value bottleneck: what its modes read, count and change, against NumPy; and what it refuses."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.errors import ModifyScopeVariableError

from jaxdec.models.key_value_bottleneck import (
    BottleneckConfig,
    KeyValueBottleneck,
    key_usage,
    nearest_pairs,
    projections,
)
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture

CONFIG = BottleneckConfig(
    embedding_dim=6, num_classes=3, value_dim=3, num_codebooks=4, num_pairs=8, key_dim=2, value_scale=1.0
)
RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32)
TOKENS = jnp.asarray(RNG.normal(size=(5, 2, 3, 6)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 0, 1])


@functools.cache
def compiled(module, method, mutable):
    return jax.jit(
        lambda variables, *arguments: module.apply(variables, *arguments, method=method, mutable=list(mutable))
    )


def call(module, variables, *arguments, method, mutable=()):
    found, changed = compiled(module, method, tuple(mutable))(variables, *arguments)
    return found, {**variables, **changed}


@functools.cache
def initial(module):
    return jax.jit(module.init)(jax.random.key(0), Z)


def made(config=CONFIG, like=CONFIG, learned=1):
    """A module, and the variables of one like it, with keys that have (or have not) learned."""
    variables = initial(KeyValueBottleneck(like))
    bottleneck = {**variables["bottleneck"], "key_updates": jnp.asarray(learned, jnp.int32)}
    return KeyValueBottleneck(config), {**variables, "bottleneck": bottleneck}


def places(variables, embeddings) -> np.ndarray:
    """The nearest key of each codebook, ``[C, N]``, in NumPy."""
    projections, codebooks = (np.asarray(part, np.float64) for part in (
        variables["bottleneck"]["projections"], variables["bottleneck"]["codebooks"].keys))  # fmt: skip
    heads = np.einsum("nm,cme->cne", np.asarray(embeddings, np.float64), projections)
    return np.square(heads[:, :, None] - codebooks[:, None]).sum(-1).argmin(-1)


def loss_of(module):
    def loss(params, others, embeddings):
        found, _ = module.apply({"params": params, **others}, embeddings, method="train_values", mutable=["usage"])
        return optax.softmax_cross_entropy_with_integer_labels(found, LABELS).mean()

    return loss


def test_logits_are_the_mean_vote_and_the_gradient_lies_where_it_was_read():
    module, variables = made()
    others = {name: variables[name] for name in ("bottleneck", "usage")}
    found, after = call(module, variables, Z, method="train_values", mutable=["usage"])
    at, values = places(variables, Z), np.asarray(variables["params"]["values"])
    expected = np.mean([values[codebook, at[codebook]] for codebook in range(4)], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    hits = np.stack([np.bincount(row, minlength=8) for row in at])
    np.testing.assert_array_equal(after["usage"]["hits"], hits)

    gradient = jax.jit(jax.grad(loss_of(module)))(variables["params"], others, Z)["values"]
    slope = (np.exp(expected) / np.exp(expected).sum(-1, keepdims=True) - np.eye(3)[np.asarray(LABELS)]) / 5 / 4
    by_hand = np.zeros_like(values)
    for codebook in range(4):
        np.add.at(by_hand[codebook], at[codebook], slope)
    np.testing.assert_allclose(gradient, by_hand, atol=1e-6)
    np.testing.assert_array_equal((np.asarray(gradient) != 0).any(-1), hits > 0)


def test_nothing_but_values_has_a_gradient_and_keys_cannot_change_while_values_learn():
    module, variables = made()
    floats = (variables["bottleneck"]["projections"], variables["bottleneck"]["codebooks"], Z)

    def loss(floats):
        projections, codebooks, embeddings = floats
        bottleneck = {**variables["bottleneck"], "projections": projections, "codebooks": codebooks}
        return loss_of(module)(variables["params"], {"bottleneck": bottleneck, "usage": variables["usage"]}, embeddings)

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(floats)):
        np.testing.assert_array_equal(gradient, 0)
    with pytest.raises(ModifyScopeVariableError):
        call(module, variables, Z, jax.random.key(0), method="init_keys", mutable=["usage"])


def test_projections_have_columns_of_unit_norm():
    _, variables = made()
    matrices = np.asarray(variables["bottleneck"]["projections"])
    assert matrices.shape == (4, 6, 2)
    np.testing.assert_allclose(np.linalg.norm(matrices, axis=1), 1, rtol=1e-6)
    assert len(np.unique(np.abs(matrices))) == matrices.size


def test_chunks_are_parts_of_the_embedding():
    matrices = projections(jax.random.key(0), dataclasses.replace(CONFIG, heads="chunk", num_codebooks=3))
    heads = np.einsum("nm,cme->cne", np.asarray(Z), np.asarray(matrices))
    np.testing.assert_array_equal(heads, np.asarray(Z).reshape(5, 3, 2).swapaxes(0, 1))


def test_voting_does_not_know_the_order_of_codebooks_and_begins_at_the_uniform_law():
    module, variables = made()
    found, _ = call(module, variables, Z, method="__call__")
    order = np.array([2, 0, 3, 1])
    turned = jax.tree.map(lambda leaf: np.asarray(leaf)[order] if leaf.ndim else leaf, variables)
    np.testing.assert_allclose(call(module, turned, Z, method="__call__")[0], found, atol=1e-6)

    nothing = {**variables, "params": {"values": jnp.zeros_like(variables["params"]["values"])}}
    assert (call(module, nothing, Z, method="__call__")[0] == 0).all()
    no_scale = KeyValueBottleneck(dataclasses.replace(CONFIG, value_scale=0.0))
    shapes = jax.eval_shape(no_scale.init, jax.random.key(0), Z)
    assert shapes["params"]["values"].shape == (4, 8, 3)


def test_shapes_of_what_is_fetched_with_tokens_and_several_pairs():
    module, variables = made(dataclasses.replace(CONFIG, topk=2))
    fetched, (logits, after) = jax.jit(
        lambda variables: (
            module.apply(variables, TOKENS, method="fetch"),
            module.apply(variables, TOKENS, method="train_values", mutable=["usage"]),
        )
    )(variables)
    chex.assert_shape(fetched, [(5, 4, 2, 6, 3), (5, 4, 2, 6), (5, 4, 2, 6)])
    keys, projections = variables["bottleneck"]["codebooks"].keys, variables["bottleneck"]["projections"]
    heads = np.einsum("bnm,cme->bcne", np.asarray(TOKENS).reshape(5, 6, 6), projections)
    distances = np.square(heads[:, :, :, None] - np.asarray(keys)[None, :, None]).sum(-1)
    nearest = np.moveaxis(np.argsort(distances, axis=-1)[..., :2], -1, 2)
    np.testing.assert_array_equal(fetched.index, nearest)
    np.testing.assert_allclose(fetched.distance, np.moveaxis(np.sort(distances)[..., :2], -1, 2), rtol=1e-4, atol=1e-5)
    values = np.asarray(variables["params"]["values"])
    np.testing.assert_array_equal(fetched.values, values[np.arange(4)[:, None, None], nearest])
    np.testing.assert_allclose(logits, np.asarray(fetched.values).mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    assert int(after["usage"]["hits"].sum()) == 5 * 4 * 2 * 6


def test_fewer_pairs_in_use_than_asked_for():
    heads, keys = (jnp.asarray(RNG.normal(size=(1, size, 2)), jnp.float32) for size in (4, 5))
    used = jnp.asarray([[False, True, False, False, True]])
    index = np.asarray(jax.jit(nearest_pairs, static_argnums=3)(heads, keys, used, 3))[0]
    np.testing.assert_array_equal(np.sort(index[:, :2], axis=1), [[1, 4]] * 4)
    np.testing.assert_array_equal(index[:, 2], -1)


def test_evaluation_reaches_only_pairs_that_training_fetched():
    module, variables = made()
    _, variables = call(module, variables, Z, method="train_values", mutable=["usage"])
    hits = np.asarray(variables["usage"]["hits"])
    others = jnp.asarray(RNG.normal(size=(200, 6)), jnp.float32)
    free, kept, (logits, after) = jax.jit(
        lambda variables: (
            module.apply(variables, others, method="fetch"),
            module.apply(variables, others, variables["usage"]["hits"] > 0, method="fetch"),
            module.apply(variables, others, method="evaluate", mutable=["usage"]),
        )
    )(variables)
    assert (np.take_along_axis(hits, np.asarray(free.index)[:, :, 0, 0].T, axis=1) == 0).any(), "nothing is tested"
    assert (np.take_along_axis(hits, np.asarray(kept.index)[:, :, 0, 0].T, axis=1) > 0).all()
    np.testing.assert_allclose(logits, np.asarray(kept.values).mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after["usage"]["hits"], hits)
    usage = key_usage(variables)
    assert usage["unused"] == pytest.approx((hits == 0).mean())
    assert 1 <= usage["perplexity"] <= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "layers"),
    [
        ("linear", {"logits"}),
        ("mlp", {"hidden", "logits"}),
    ],
)
def test_other_decoders_learn_beside_the_values(decoder, layers):
    config = dataclasses.replace(CONFIG, decoder=decoder, value_dim=5, mlp_width=7)
    module, variables = made(config, like=config)
    others = {name: variables[name] for name in ("bottleneck", "usage")}
    assert set(variables["params"]["decoder"]) == layers
    gradients = jax.jit(jax.grad(loss_of(module)))(variables["params"], others, TOKENS)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradients))
    at = places(variables, TOKENS.reshape(-1, 6)).reshape(4, -1)
    read = np.stack([np.bincount(row, minlength=8) > 0 for row in at])
    assert (np.asarray(gradients["values"])[~read] == 0).all()


def test_keys_must_have_learned_before_values():
    module, variables = made(learned=0)
    with pytest.raises(ValueError, match="key_updates must be at least 1: learn keys before values; got 0"):
        module.apply(variables, Z, method="train_values", mutable=["usage"])
    logits, _ = call(module, variables, Z, method="train_values", mutable=["usage"])
    assert bool(jnp.isnan(logits).all())
    _, variables = call(module, variables, Z, jax.random.key(0), method="init_keys", mutable=["bottleneck"])
    logits, _ = call(module, variables, Z, method="train_values", mutable=["usage"])
    assert bool(jnp.isfinite(logits).all())


def test_evaluation_needs_pairs_that_were_fetched():
    module, variables = made()
    with pytest.raises(ValueError, match=r"hits must be positive for at least 1 pairs of each codebook, .*; got 0"):
        module.apply(variables, Z, method="evaluate")
    assert bool(jnp.isnan(call(module, variables, Z, method="evaluate")[0]).all())


def broken(number):
    embeddings = np.array(Z)
    embeddings[2, 3] = number
    return jnp.asarray(embeddings)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (Z[:, :5], r"embeddings must have shape \[B, ..., 6\]; got \[5, 5\]"),
        (broken(np.nan), "embeddings must be finite; got NaN or infinity"),
        (broken(np.inf), "embeddings must be finite; got NaN or infinity"),
    ],
)
def test_refuses_embeddings(embeddings, message):
    module, variables = made()
    with pytest.raises(ValueError, match=message):
        module.apply(variables, embeddings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in (
            "embedding_dim", "num_classes", "value_dim", "num_codebooks", "num_pairs", "key_dim", "topk", "mlp_width")),
        ({"topk": 9}, "topk must be at most num_pairs, 8; got 9"),
        ({"decoder": "sum"}, "decoder must be one of voting, linear, mlp; got 'sum'"),
        ({"heads": "learned"}, "heads must be one of random, chunk; got 'learned'"),
        ({"value_dim": 4}, "value_dim must be num_classes, 3, to vote; got 4"),
        ({"heads": "chunk"}, r"embedding_dim must be num_codebooks \* key_dim, 8, for heads that are .*; got 6"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"decay": -0.1}, r"decay must be in \[0, 1\), got -0.1"),
        ({"epsilon": 0.0}, "epsilon must be positive, got 0.0"),
        ({"dead_below": -1.0}, "dead_below must be at least 0 and finite, got -1.0"),
        ({"value_scale": float("nan")}, "value_scale must be at least 0 and finite, got nan"),
    ],
)  # fmt: skip
def test_refuses_configs(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
