"""The training loop on a tiny transformer: loss and gradient by the book, resuming bit for bit, refusals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxdec.training import SequenceCache, begin, fit, next_token_loss, update
from jaxdec.training.next_token import Texts
from tests.quick_compiling import quick_compiling  # noqa: F401 - a fixture
from tests.reference import full_logits
from tests.tiny_models import tiny_transformer

OPTIMIZER = optax.adamw(1e-2)


def small(scale: float):
    return tiny_transformer(scale=scale, num_layers=1)


def batch_at(step: int) -> Texts:
    rng = np.random.default_rng(step % 4)
    tokens = np.tile(rng.integers(0, 41, (3, 4)), (1, 3))  # each text is four tokens said three times
    weights = (np.arange(12) >= 4) * np.ones((3, 1))
    return Texts(jnp.asarray(tokens, jnp.int32), jnp.asarray(weights, jnp.float32))


def test_the_loss_is_the_weighted_mean_of_what_decoding_sees():
    model = small(3.0)
    texts = batch_at(0)
    weights = np.array(texts.weights)
    weights[1, 7:] = 0  # padding
    weights[2, 5] = 2.5
    expected, total = 0.0, 0.0
    for tokens, row in zip(texts.tokens.tolist(), weights):
        log_probs = jax.nn.log_softmax(full_logits(model, tokens), axis=-1)
        for place in range(1, 12):
            expected -= row[place] * float(log_probs[place - 1, tokens[place]])
            total += row[place]
    found = jax.jit(next_token_loss)(model, texts.replace(weights=jnp.asarray(weights)))
    assert float(found) == pytest.approx(expected / total, rel=1e-5)


def test_the_gradient_is_the_slope():
    model = small(3.0)
    flat, unflatten = ravel_pytree(model.params)
    texts = batch_at(0)
    loss = jax.jit(lambda flat: next_token_loss(model.replace(params=unflatten(flat)), texts))
    gradient = jax.jit(jax.grad(loss))(flat)
    steepness = jnp.linalg.norm(gradient)
    step = 1e-2 * gradient / steepness
    assert float(loss(flat + step) - loss(flat - step)) / 2e-2 == pytest.approx(float(steepness), rel=2e-2)


def test_training_learns_and_goes_on_bit_for_bit(tmp_path):
    model, losses = small(1.0), []
    straight = fit(next_token_loss, OPTIMIZER, model, batch_at, 40, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    fit(next_token_loss, OPTIMIZER, model, batch_at, 25, folder=tmp_path, save_every=20)
    steps = []
    resumed = fit(
        next_token_loss, OPTIMIZER, model, batch_at, 40, folder=tmp_path, on_step=lambda step, loss: steps.append(step)
    )
    assert steps == list(range(26, 41))
    chex.assert_trees_all_equal(resumed.params, straight.params)
    again = fit(next_token_loss, OPTIMIZER, model, batch_at, 40, folder=tmp_path, on_step=lambda step, loss: 1 / 0)
    chex.assert_trees_all_equal(again.params, straight.params)
    assert np.isfinite(jax.tree.leaves(model.params)[0]).all(), "the model given was donated"
    with pytest.raises(ValueError, match="holds a checkpoint of 40 updates, num_steps is 39"):
        fit(next_token_loss, OPTIMIZER, model, batch_at, 39, folder=tmp_path)


def test_an_interrupted_run_keeps_its_last_checkpoint(tmp_path):
    def stop(step, loss):
        if step == 5:
            raise KeyboardInterrupt

    model, steps = small(1.0), []
    with pytest.raises(KeyboardInterrupt):
        fit(next_token_loss, OPTIMIZER, model, batch_at, 8, folder=tmp_path, save_every=2, on_step=stop)
    fit(next_token_loss, OPTIMIZER, model, batch_at, 8, folder=tmp_path, on_step=lambda step, loss: steps.append(step))
    assert steps == [5, 6, 7, 8]


def test_the_state_is_donated():
    state = begin(OPTIMIZER, small(8.0))
    before = jax.tree.leaves(state.model.params)[0]
    update(next_token_loss, OPTIMIZER, state, batch_at(0))
    assert before.is_deleted()


def test_divergence_and_bad_input_are_reported():
    model = small(8.0)
    broken = model.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
    with pytest.raises(FloatingPointError, match="the loss of update 0 is nan"):
        fit(next_token_loss, OPTIMIZER, broken, batch_at, 2)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        fit(next_token_loss, OPTIMIZER, model, batch_at, 0)
    with pytest.raises(ValueError, match="save_every must be at least 1, got 0"):
        fit(next_token_loss, OPTIMIZER, model, batch_at, 1, save_every=0)
    with pytest.raises(NotImplementedError, match="remembers nothing"):
        SequenceCache.create(1).fork(jnp.zeros(1, jnp.int32))


def test_a_given_visibility_is_kept():
    """Seeing everything is another model than seeing the past; seeing the past explicitly is the same."""
    model = small(3.0)
    tokens = batch_at(0).tokens
    positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    cache = SequenceCache.create(3)
    model = jax.jit(lambda *given, model=model: model(*given))
    causal = model(tokens, positions, cache).logits
    explicit = model(tokens, positions, cache, jnp.broadcast_to(jnp.tri(12, dtype=bool), (3, 12, 12))).logits
    everything = model(tokens, positions, cache, jnp.ones((3, 12, 12), bool)).logits
    np.testing.assert_allclose(explicit, causal, atol=1e-4)
    assert not np.allclose(everything[:, :-1], causal[:, :-1], atol=1e-2)
    assert SequenceCache.create(3).append(0, jnp.ones((3, 5, 2, 4)), jnp.ones((3, 5, 2, 4))).capacity == 5
