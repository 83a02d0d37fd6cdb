"""What all tests share."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Compiled programs are kept as long as the process lives; thousands of them exhaust its memory mappings."""
    yield
    jax.clear_caches()
