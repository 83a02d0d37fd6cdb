"""How long a nuclear norm and its gradient take, by either method, in turns."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes.timing import in_turns
from jaxdec.objectives.nuclear_norm import nuclear_norm

METHODS = ("gram", "svd")


def norms_part(shapes: Sequence[Sequence[int]], rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """By shape, milliseconds of a value with its gradient, float32, of random unit rows."""
    cases = []
    with progress.task("times of nuclear norms", len(shapes)) as advance:
        for rows, columns in shapes:
            matrix = np.random.default_rng(0).normal(size=(rows, columns))
            unit = jnp.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), jnp.float32)
            sides = {}
            for method in METHODS:
                both = jax.jit(jax.value_and_grad(lambda x, method=method: nuclear_norm(x, method)))

                def call(passes: int, both: Any = both, unit: jax.Array = unit) -> None:
                    for _ in range(passes):
                        jax.block_until_ready(both(unit))

                sides[method] = call
            cases.append({"shape": [rows, columns], **in_turns(sides, rounds, 0.2)})
            advance(f"{rows} x {columns}")
    return cases
