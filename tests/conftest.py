"""What all tests share."""

import os

import jax
import pytest


def pytest_configure(config):
    """Programs are compiled once for all workers and the next run (``pytest --cache-clear`` forgets them).

    Three quarters of the seconds go into compiling, some of it what another module or worker has compiled already.
    """
    _keep_to_own_cores()
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # What another worker is writing, or was when it was stopped, cannot be read: jax says so, and compiles.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")


def _keep_to_own_cores():
    """Divide the cores among the workers, before jax counts them: threads for all cores in every worker wait for each other."""
    name, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if name is None or not hasattr(os, "sched_setaffinity"):  # one process, or not Linux
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= workers:
        os.sched_setaffinity(0, cores[int(name.removeprefix("gw")) :: workers])


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Compiled programs are kept as long as the process lives; thousands of them exhaust its memory mappings."""
    yield
    jax.clear_caches()
