"""The mathematics alone: tokens near a union of subspaces, compressed by exact and by approximate steps."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdec.objectives.coding_rate import compression_step, projected, subspace_rate, subspace_rate_gradient


def mixture(config: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens ``[N, D]`` with noise, orthonormal bases ``[K, D, P]`` that span the space, and each token's subspace."""
    rng = np.random.default_rng(config["seed"])
    subspaces, inside, number = config["subspaces"], config["inside"], config["tokens"]
    width = subspaces * inside
    bases = np.linalg.qr(rng.normal(size=(width, width)))[0].reshape(width, subspaces, inside).transpose(1, 0, 2)
    labels = rng.integers(0, subspaces, number)
    clean = np.einsum("ndp,np->nd", bases[labels], rng.normal(size=(number, inside)))
    return clean + config["noise"] * rng.normal(size=(number, width)), bases, labels


def subspaces_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Exact steps down ``R^c``, and how near attention comes to one, by the factor ``a = P / (N e^2)``.

    Returns:
      ``rate`` and ``energy`` (share of a token's energy in its own subspace, mean) behind each step, the first before any;
      by ``a``: ``cosine`` of attention's step to the gradient, ``change`` of the rate by an attention step of size 0.1.
    """
    tokens, bases, labels = mixture(config)
    z, u = jnp.asarray(tokens, jnp.float32), jnp.asarray(bases, jnp.float32)
    own = jnp.asarray(labels)

    @jax.jit
    def measured(z):
        energy = jnp.square(projected(z, u)).sum(-1)  # [K, N]
        share = jnp.take_along_axis(energy, own[None], axis=0)[0] / energy.sum(0)
        return subspace_rate(z, u, config["epsilon"]), share.mean()

    @jax.jit
    def step(z):
        return z - config["step_size"] * subspace_rate_gradient(z, u, config["epsilon"])

    rate, energy = [], []
    for _ in range(config["steps"] + 1):
        now = measured(z)
        rate.append(float(now[0]))
        energy.append(float(now[1]))
        z = step(z)
    return {
        "rate": rate,
        "energy": energy,
        "approximation": [approximation(tokens, bases, a) for a in config["factors"]],
    }


def approximation(tokens: np.ndarray, bases: np.ndarray, factor: float) -> dict[str, float]:
    """One attention step at a precision for which ``P / (N e^2)`` is ``factor``, beside the gradient."""
    z, u = jnp.asarray(tokens, jnp.float32), jnp.asarray(bases, jnp.float32)
    epsilon = float((bases.shape[-1] / (len(tokens) * factor)) ** 0.5)
    true = np.asarray(subspace_rate_gradient(z, u, epsilon), np.float64)
    after = compression_step(z, u, epsilon, 0.1)
    moved = np.asarray(z - after, np.float64)
    cosine = (true * moved).sum() / np.sqrt((true**2).sum() * (moved**2).sum())
    before, now = (float(subspace_rate(x, u, epsilon)) for x in (z, after))
    return {"factor": factor, "cosine": float(cosine), "change": now / before - 1}
