"""One loop runs every decoding method.

A method is a frozen dataclass with pure ``init``, ``step`` and ``done``. :func:`decode` runs the steps inside one jitted
``lax.while_loop``; :func:`stream` returns to the host every few steps and yields the same states. Both call the same
two compiled functions, :func:`start` and :func:`advance`, so that a text streamed is the text decoded.
"""

import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxdec.decoding.state import Decoded, Guarantee, Prompt
from jaxdec.language_model import LanguageModel
from jaxdec.typing import Array, Bool, Int

UNLIMITED = 2**31 - 1


@runtime_checkable
class Method(Protocol):
    """A decoding method: a frozen (hashable) dataclass, static under ``jit``.

    Its state is a pytree with at least ``tokens``, ``length``, ``done``, ``rng`` and ``stats``.
    """

    @property
    def guarantee(self) -> Guarantee:
        """How its text relates to that of :attr:`reference`."""
        ...

    @property
    def reference(self) -> str:
        """What the guarantee is relative to: ``"greedy decoding"``, ``"sampling"``, ``"beam search"``, ..."""
        ...

    @property
    def incremental(self) -> bool:
        """Whether each row of its state is one text, of which earlier tokens never change: it can then be streamed, and
        ended early by setting ``done``. Beams are not: which text is best is known at the end."""
        ...

    def init(self, model: LanguageModel, prompt: Prompt) -> Any:
        """Feed the prompt and return the first state."""
        ...

    def step(self, model: LanguageModel, state: Any) -> Any:
        """Advance every row that is not done."""
        ...

    def done(self, state: Any) -> Bool[Array, "*rows"]:
        """Which rows are finished."""
        ...

    def result(self, state: Any) -> Decoded:
        """Return the texts of a state, finished or not."""
        ...


@functools.partial(jax.jit, static_argnums=0)
def start(method: Method, model: LanguageModel, prompt: Prompt) -> Any:
    """``method.init``, jitted: the prefill and the first token."""
    return method.init(model, prompt)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def advance(method: Method, model: LanguageModel, state: Any, max_steps: Int[Array, ""] | int) -> Any:
    """Run ``method.step`` until all rows are done, at most ``max_steps`` times. ``state`` is donated."""

    def unfinished(carry):
        state, steps = carry
        return (steps < max_steps) & ~method.done(state).all()

    def step(carry):
        state, steps = carry
        return method.step(model, state), steps + 1

    return jax.lax.while_loop(unfinished, step, (state, jnp.int32(0)))[0]


def decode(method: Method, model: LanguageModel, prompt: Prompt) -> Decoded:
    """Decode a batch of prompts to the end.

    Args:
      method: for example ``Autoregressive()`` or ``BeamSearch(num_beams=4)``.
      model: the language model, bound to its parameters.
      prompt: see :meth:`jaxdec.decoding.state.Prompt.create`.
    """
    return method.result(advance(method, model, start(method, model, prompt), UNLIMITED))


def stream(method: Method, model: LanguageModel, prompt: Prompt, steps: int = 1) -> Iterator[Any]:
    """Yield the state after the prefill and then after every ``steps`` steps.

    A yielded state is valid until the next one is asked for: its buffers are then donated.

    Raises:
      ValueError: ``steps`` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    state = start(method, model, prompt)
    yield state
    while not bool(method.done(state).all()):
        state = advance(method, model, state, steps)
        yield state
