"""The first backend that fits is taken; when none does, all reasons are shown."""

import re
import types

import jax.numpy as jnp
import pytest

from pallas_kernels.backends import dispatch


def refusing(reason):
    def backend(*arguments):
        raise NotImplementedError(reason)

    return backend


def test_takes_the_first_that_fits_the_device():
    backends = {"tpu": lambda x: "tpu", "xla": lambda x: ("xla", x)}
    assert dispatch("op", backends, None, 7) == ("xla", 7)  # the tests run on a processor
    assert dispatch("op", backends, "tpu", 7) == "tpu"


def test_shows_every_reason_if_none_fits():
    backends = {"tpu": refusing("too wide"), "xla": refusing("too deep")}
    expected = "no implementation of op takes these arguments: tpu: runs on tpu, and jax's default platform is cpu; "
    with pytest.raises(NotImplementedError, match=re.escape(expected + "xla: too deep")):
        dispatch("op", backends, None, jnp.ones(1))


def test_a_named_backend_that_refuses_is_not_replaced():
    with pytest.raises(NotImplementedError, match=r"op takes these arguments: tpu: too wide$"):
        dispatch("op", {"tpu": refusing("too wide"), "xla": lambda: 1}, "tpu")


def test_other_errors_pass_through():
    def wrong():
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        dispatch("op", {"xla": wrong}, None)


@pytest.mark.parametrize(
    ("name", "platform", "capability", "reason"),
    [
        ("hopper", "gpu", "8.0", "runs on compute capability 9.0, and the default device has 8.0"),
        ("hopper", "gpu", "9.0", "has not been run on a device yet, and is taken only when named"),
        ("tpu", "tpu", None, "has not been run on a device yet, and is taken only when named"),
    ],
)
def test_what_no_device_has_run_is_taken_only_when_named(monkeypatch, name, platform, capability, reason):
    monkeypatch.setattr("jax.default_backend", lambda: platform)
    monkeypatch.setattr("jax.devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    backends = {name: lambda: name, "xla": refusing("none")}
    with pytest.raises(NotImplementedError, match=re.escape(f"{name}: {reason}; xla: none")):
        dispatch("op", backends, None)
    assert dispatch("op", backends, name) == name
