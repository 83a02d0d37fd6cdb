"""Choosing the implementation of an operation, and gradients for those that have none.

A backend is a function. It refuses arguments that it cannot take by raising ``NotImplementedError(reason)`` while jax traces
it, before anything compiles. The backends of an operation are ordered; XLA is the last one and takes everything.
What no device has run is not taken by itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

PLATFORMS = {"tpu": "tpu", "hopper": "gpu", "triton": "gpu", "xla": None}
CAPABILITIES = {"hopper": "9.0"}  # of a GPU, where its instructions are what a backend is made of
UNTRIED = frozenset({"tpu", "hopper", "triton"})
"""Interpreted and lowered, but run on no device yet: what is wrong with them could not be seen. Taken only when named."""


def dispatch(operation: str, backends: Mapping[str, Callable[..., Any]], implementation: str | None, *args, **kwargs):
    """Call the first backend that fits, or the one named.

    Args:
      operation: its name, for messages.
      backends: by name, the preferred one first.
      implementation: the one to use, or None. A named backend is tried whatever jax's default platform is, so that its
        program can be lowered on another machine.
      *args: for the backend.
      **kwargs: for the backend.

    Raises:
      ValueError: there is no backend of that name.
      NotImplementedError: the named backend refuses, or all do; the message has every reason.
    """
    if implementation is not None and implementation not in backends:
        raise ValueError(f"implementation must be None or one of {', '.join(backends)}; got {implementation!r}")
    reasons = []
    for name in backends if implementation is None else (implementation,):
        if implementation is None and (reason := why_not(name)):
            reasons.append(f"{name}: {reason}")
            continue
        try:
            return backends[name](*args, **kwargs)
        except NotImplementedError as refusal:
            reasons.append(f"{name}: {refusal}")
    raise NotImplementedError(f"no implementation of {operation} takes these arguments: " + "; ".join(reasons))


def why_not(name: str) -> str:
    """Why a backend is not taken unless it is named, or an empty string."""
    wanted, platform = PLATFORMS[name], jax.default_backend()
    if wanted not in (None, platform):
        return f"runs on {wanted}, and jax's default platform is {platform}"
    capability = CAPABILITIES.get(name)
    found = None if capability is None else getattr(jax.devices()[0], "compute_capability", None)
    if found != capability:
        return f"runs on compute capability {capability}, and the default device has {found}"
    return "has not been run on a device yet, and is taken only when named" if name in UNTRIED else ""


def with_gradient_of(plain: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """``kernel`` with the gradient of ``plain``, which is computed anew from the inputs in the backward pass.

    Both take ``(floats, integers)``, two tuples of arrays, and return the same thing. Only ``floats`` have a gradient, and
    only in reverse mode.
    """

    @jax.custom_vjp
    def call(floats, integers):
        return kernel(floats, integers)

    def forward(floats, integers):
        return call(floats, integers), (floats, integers)

    def backward(inputs, cotangents):
        floats, integers = inputs
        _, pull = jax.vjp(lambda *floats: plain(floats, integers), *floats)
        return pull(cotangents), None

    call.defvjp(forward, backward)
    return call
