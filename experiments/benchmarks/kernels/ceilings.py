"""What the machine can do at all: bandwidth of memory, rate of matrix products, and the cost of handing a call over."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


class Ceilings:
    """Four simple programs and the arrays they work on."""

    def __init__(self, nbytes: int, n: int, dtype: str):
        """Make the arrays.

        Args:
          nbytes: of what is copied and read, much more than any cache holds.
          n: rows and columns of the matrices.
          dtype: of the matrices.
        """
        source = _bits(nbytes // 4)
        target = [copy(source, jnp.zeros_like(source))]  # a box: the array is given away and comes back
        a, b = _matrices(n, dtype)
        few = jnp.ones(1 << 12, jnp.float32)

        def copied(index: int) -> jax.Array:
            target[0] = copy(source, target[0])
            return target[0]

        self.calls: dict[str, Callable[[int], Any]] = {
            "copy": copied,
            "read": lambda index: read(source),
            "product": lambda index: product(a, b),
            "launch": lambda index: plus_one(few),
        }
        self.nbytes, self.flops = source.nbytes, 2 * n**3
        self.counts: dict[str, int] = {}

    def warm_up(self, enough: Callable[[Callable[[int], Any]], int]):
        """Compile; ``enough`` says how many calls are to be made."""
        for name, call in self.calls.items():
            jax.block_until_ready(call(0))
            self.counts[name] = enough(call)

    def measure(self, time: Callable[[Callable[[int], Any], int], dict[str, float]]) -> dict[str, float]:
        """Measure once.

        Args:
          time: from a call and its number to ``microseconds``, and ``wall_microseconds`` if those are another thing.

        Returns:
          ``copy_gigabytes_per_second`` (bytes read and bytes written), ``read_gigabytes_per_second``,
          ``gigaflops_per_second``, ``launch_microseconds`` (seen from the host).
        """
        times = {name: time(call, self.counts[name]) for name, call in self.calls.items()}
        copied, was_read, multiplied = (times[name]["microseconds"] for name in ("copy", "read", "product"))
        return {
            "copy_gigabytes_per_second": 2 * self.nbytes / copied / 1e3,
            "read_gigabytes_per_second": self.nbytes / was_read / 1e3,
            "gigaflops_per_second": self.flops / multiplied / 1e3,
            "launch_microseconds": times["launch"].get("wall_microseconds", times["launch"]["microseconds"]),
        }


@functools.partial(jax.jit, donate_argnums=1, keep_unused=True)
def copy(source: jax.Array, target: jax.Array) -> jax.Array:
    """Copy into memory that is there already, bits flipped, so that the compiler cannot leave it out."""
    return ~source


@jax.jit
def read(array: jax.Array) -> jax.Array:
    """Sum in many pieces, so that all cores have some: reads, and writes next to nothing."""
    return array.reshape(256, -1).sum(1)


@jax.jit
def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of matrices in their own type; float32 is meant as float32."""
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None)


@jax.jit
def plus_one(array: jax.Array) -> jax.Array:
    """Next to nothing, but enough that jax hands it over as it does real work: a scalar it adds on the spot."""
    return array + 1


@functools.partial(jax.jit, static_argnums=0)
def _bits(count: int) -> jax.Array:
    return jax.lax.iota(jnp.uint32, count) * jnp.uint32(2654435761)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _matrices(n: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    one, other = jax.random.split(jax.random.key(2))
    return jax.random.normal(one, (n, n), jnp.dtype(dtype)), jax.random.normal(other, (n, n), jnp.dtype(dtype))
