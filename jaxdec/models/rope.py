"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) with the linear and Llama-3 frequency scalings.

Pairs are the two halves of a head, as in Hugging Face checkpoints: ``x' = x cos + rotate_half(x) sin`` where
``rotate_half([a, b]) = [-b, a]``.
"""

import dataclasses
import math

import jax.numpy as jnp

from jaxdec.models.config import DecoderConfig, RopeScaling
from jaxdec.typing import Array, Float, Int


def inverse_frequencies(config: DecoderConfig) -> Float[Array, "E2"]:
    """Angular frequency of each pair, ``theta ** (-2 i / E)``, scaled as the config says; float32 ``[E / 2]``."""
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    return scale_frequencies(1.0 / config.rope_theta**exponents, config.rope_scaling)


def scale_frequencies(frequencies: Float[Array, "E2"], scaling: RopeScaling | None) -> Float[Array, "E2"]:
    """Apply position interpolation (Chen et al. 2023) or Llama 3.1's piecewise scaling.

    Llama 3: wavelengths shorter than ``original / high_freq_factor`` stay, longer than ``original / low_freq_factor`` are
    divided by ``factor``, and between them the two are blended linearly in ``original / wavelength``.
    """
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    cycles = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (cycles - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def rotation(config: DecoderConfig, positions: Int[Array, "B T"]) -> tuple[Array, Array]:
    """Cosine and sine ``float32[B, T, 1, E / 2]`` of each position, computed once per forward pass."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]


def rotate(x: Float[Array, "B T H E"], cos: Array, sin: Array) -> Float[Array, "B T H E"]:
    """Rotate every head of ``x``."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Rotation:
    """:func:`rotation` of one model, as a value: two of equal configs are equal, so that they compile to one program."""

    config: DecoderConfig

    def __call__(self, positions: Int[Array, "B T"]) -> tuple[Array, Array]:
        """Cosine and sine of each position; negative ones turn back."""
        return rotation(self.config, positions)
