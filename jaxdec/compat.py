"""Names that moved between jax 0.10 and 0.12, and settings of the runtime, in one place."""

import os
import time
from pathlib import Path

import jax

COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


def cache_home() -> Path:
    """Folder for fetched models and compiled programs: ``$JAXDEC_CACHE``, else ``~/.cache/jaxdec``."""
    return Path(os.environ.get("JAXDEC_CACHE") or Path.home() / ".cache" / "jaxdec")


def enable_compilation_cache(folder: Path | None = None) -> Path | None:
    """Keep compiled programs on disk, so that the next process starts without compiling.

    A folder that the user has configured in jax stays. Returns the folder in use, or None if it cannot be written to (a
    cache is a convenience: without one everything works, and compiles).
    """
    if configured := jax.config.values["jax_compilation_cache_dir"]:
        return Path(configured)
    folder = folder or cache_home() / "compiled" / f"jax-{jax.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder


class CompileClock:
    """Seconds that jax spent tracing, lowering and compiling (or fetching from the cache) while the clock was entered.

    Nested traces report overlapping durations, so the intervals are united before they are summed.
    """

    def __init__(self):
        self._intervals: list[tuple[float, float]] = []
        self._running = False
        self._listening = False

    def __enter__(self):
        if not self._listening:
            jax.monitoring.register_event_duration_secs_listener(self._record)
            self._listening = True
        self._running = True
        return self

    def __exit__(self, *exception):
        self._running = False

    def _record(self, event: str, duration_secs: float, **kwargs: str | int):
        if self._running and event in COMPILE_EVENTS:
            now = time.perf_counter()
            self._intervals.append((now - duration_secs, now))

    @property
    def seconds(self) -> float:
        """Length of the union of all compile intervals so far."""
        total, end = 0.0, float("-inf")
        for begin, finish in sorted(self._intervals):
            total += max(0.0, finish - max(begin, end))
            end = max(end, finish)
        return total
