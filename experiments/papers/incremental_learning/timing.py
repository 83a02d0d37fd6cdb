"""How long the search for the nearest keys takes, and how long it would if all distances were written down: in turns."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.papers.progress import Progress
from experiments.papers.shared_prefixes.timing import in_turns
from jaxdec.typing import Array, Float, Int
from pallas_kernels.nearest_key import nearest_key

OURS, WHOLE, IN_TURN = "nearest_key", "all distances at once", "distances of one codebook at a time"


@jax.jit
def found_by_us(queries: Float[Array, "C N E"], keys: Float[Array, "C K E"]) -> Int[Array, "C N"]:
    """Blocks of keys, and only the best so far."""
    return nearest_key(queries, keys)[0]


@jax.jit
def materialised(queries: Float[Array, "C N E"], keys: Float[Array, "C K E"]) -> Int[Array, "C N"]:
    """As in the authors' code: three terms, ``[C, N, K]``."""
    products = jnp.einsum("cne,cke->cnk", queries, keys)
    return (jnp.square(queries).sum(-1)[..., None] - 2 * products + jnp.square(keys).sum(-1)[:, None]).argmin(-1)


@jax.jit
def one_at_a_time(queries: Float[Array, "C N E"], keys: Float[Array, "C K E"]) -> Int[Array, "C N"]:
    """The same terms in a loop over codebooks."""

    def of_one(codebook: tuple[Array, Array]) -> Array:
        queries, keys = codebook
        return (jnp.square(queries).sum(-1)[:, None] - 2 * queries @ keys.T + jnp.square(keys).sum(-1)).argmin(-1)

    return jax.lax.map(of_one, (queries, keys))


SIDES = {WHOLE: materialised, IN_TURN: one_at_a_time, OURS: found_by_us}


def timing_part(config: Mapping[str, Any], seed: int, progress: Progress) -> dict[str, Any]:
    """Milliseconds of one search, round by round; and how many places each side finds as we do."""
    shape = [config[name] for name in ("codebooks", "queries", "keys", "width")]
    rng = np.random.default_rng(seed)
    queries, keys = (
        jnp.asarray(rng.normal(size=(shape[0], count, shape[3])), jnp.float32) for count in (shape[1], shape[2])
    )
    with progress.task("times of the search", 1) as advance:
        ours = np.asarray(found_by_us(queries, keys))
        agree = {name: float((np.asarray(side(queries, keys)) == ours).mean()) for name, side in SIDES.items()}

        def passes_of(side: Any) -> Any:
            def call(passes: int) -> None:
                for _ in range(passes):
                    side(queries, keys).block_until_ready()

            return call

        times = in_turns({name: passes_of(side) for name, side in SIDES.items()}, config["rounds"], config["seconds"])
        advance("")
    return {"shape": shape, "agree": agree, **times}
