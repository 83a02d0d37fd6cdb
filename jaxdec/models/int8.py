"""Eight-bit weights, multiplied in integers.

One scale per row of ``W``, ``s_W = max |W| / 127``, as in LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339, section 3).
Rounding activations to eight bits too spoils a small model, as a few of them are large. So what is lost by rounding them is
kept and multiplied as well: with one scale per row of ``x``, found at run time,

    x = s (q1 + q2 / 254) + error,    q1 = round(x / s),  q2 = round(254 (x / s - q1)),    |error| <= s / 508
    y = s (q1 W_8^T + q2 W_8^T / 254) s_W

Each row of ``x`` is two rows of integers, about fifteen bits. On processors the second one is free where a row comes alone, as
the integer product of a single row takes a scalar path there. The sums run in int32 and are exact: a row's product is the same
to the last bit whatever rows stand beside it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.typing import Array, Float, Int

LARGEST = 127
FINER = 254  # steps of the second part in one step of the first: its values reach from -127 to 127


class Int8Matrix(struct.PyTreeNode):
    """A matrix of int8 with one scale per row.

    Attributes:
      values: rounded ``W / scales``, ``int8[O, I]``.
      scales: ``max |W| / 127`` of each row, ``float32[O]``.
    """

    values: Any  # arrays; Flax puts their shapes here when it compares parameters with what a module expects
    scales: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.values.shape

    def rows(self, index: Int[Array, "*rows"]) -> Float[Array, "*rows I"]:
        """Some rows, in float32."""
        return jnp.take(self.values, index, axis=0) * jnp.take(self.scales, index, axis=0)[..., None]


def quantize(matrix: Float[Array, "O I"]) -> Int8Matrix:
    """Round a matrix row by row. Rows of zeros stay zeros."""
    scales = _scales(matrix.astype(jnp.float32))
    return Int8Matrix(jnp.round(matrix / _divisor(scales)).astype(jnp.int8), scales[:, 0])


def int8_product(x: Float[Array, "N I"], weight: Int8Matrix) -> Float[Array, "N O"]:
    """``x @ W.T`` by the rule above, in float32."""
    scales = _scales(x.astype(jnp.float32))
    steps = x / _divisor(scales)
    first = jnp.round(steps)
    second = jnp.round((steps - first) * FINER)
    parts = jnp.concatenate([first, second]).astype(jnp.int8)
    dimensions = (((1,), (1,)), ((), ()))
    product = jax.lax.dot_general(parts, weight.values, dimensions, preferred_element_type=jnp.int32)
    coarse, fine = jnp.split(product.astype(jnp.float32), 2)
    return (coarse + fine / FINER) * scales * weight.scales


def _scales(x: Float[Array, "N I"]) -> Float[Array, "N 1"]:
    return jnp.abs(x).max(axis=1, keepdims=True) / LARGEST


def _divisor(scales: Float[Array, "N 1"]) -> Float[Array, "N 1"]:
    return jnp.where(scales > 0, scales, 1)
