"""The loop: streaming and whole decoding call the same compiled functions."""

import jax.numpy as jnp
import pytest

from jaxdec.decoding import Autoregressive, BeamSearch, DiverseBeamSearch, Method, Prompt, decode, stream
from jaxdec.decoding.loop import advance, start
from jaxdec.decoding.speculative import PromptLookup, Speculative
from tests.tiny_models import tiny_transformer


def test_stream_yields_every_step_and_the_last_state():
    model, prompt = tiny_transformer(), Prompt.create([[1, 2], [3]], [7, 4])
    lengths = [state.length.tolist() for state in stream(Autoregressive(), model, prompt, steps=3)]
    assert lengths == [[3, 2], [6, 5], [9, 5]]
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        next(stream(Autoregressive(), model, prompt, steps=0))


def test_advance_stops_at_its_number_of_steps_and_when_all_rows_are_done():
    model, prompt = tiny_transformer(), Prompt.create([[1, 2]], 5)
    state = start(Autoregressive(), model, prompt)
    state = advance(Autoregressive(), model, state, 2)
    assert state.length.tolist() == [5]
    state = advance(Autoregressive(), model, state, 99)
    assert state.length.tolist() == [7]
    assert state.done.tolist() == [True]


def test_the_state_is_donated():
    """Its buffers are reused: a cache is never held twice."""
    model, prompt = tiny_transformer(), Prompt.create([[1, 2]], 5)
    state = start(Autoregressive(), model, prompt)
    advance(Autoregressive(), model, state, 1)
    assert state.cache.keys[0].is_deleted()


@pytest.mark.parametrize(
    "method", [Autoregressive(), BeamSearch(), DiverseBeamSearch(), Speculative(PromptLookup())], ids=repr
)
def test_methods_are_static_and_say_what_they_are(method):
    assert isinstance(method, Method)
    assert hash(method) == hash(type(method)(**{name: getattr(method, name) for name in method.__dataclass_fields__}))


def test_one_token_needs_no_step():
    model = tiny_transformer()
    decoded = decode(Autoregressive(), model, Prompt.create([[1, 2], [5]], 1))
    assert decoded.length.tolist() == [[1], [1]]
    assert decoded.target_calls.tolist() == [[1], [1]]
    assert jnp.isfinite(decoded.log_prob).all()
