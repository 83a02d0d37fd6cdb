"""For tests of small programs, nearly all of whose time is compiling: a fixture to import."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compiling():
    """Leave most optimisations out."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
