"""Rate reduction: how many nats it takes to code tokens up to a precision, alone and given subspaces they may lie in.

Ma, Derksen, Hong & Wright 2007 (TPAMI 29, 9) for the rate; Yu et al. 2023, "White-Box Transformers via Sparse Rate Reduction"
(arXiv 2306.01129), for the rest. Tokens are rows here, ``Z [N, D]``, columns in the paper; ``U_k [D, P]`` is a basis of
subspace ``k``, and ``e`` the precision:

    R(Z)          = 1/2 logdet(I + D / (N e^2) Z^T Z)
    R^c(Z | U)    = 1/2 sum_k logdet(I + a (Z U_k)^T (Z U_k))                           a = P / (N e^2)
    grad R^c      = a sum_k (I + a G_k)^-1 Z U_k U_k^T                                  G_k = Z U_k (Z U_k)^T
    objective     = R(Z) - R^c(Z | U) - lambda |Z|_0      (to be raised; |Z|_1 stands in for |Z|_0 for gradients)

Compression is a step down ``R^c``. To first order ``(I + a G)^-1 = I - a G``; with a softmax over each row of ``G_k`` in place
of ``G_k``, and bases that sum to the identity, the step is multi-head subspace self-attention:

    Z <- (1 - kappa a) Z + kappa a MSSA(Z)         MSSA(Z) = a sum_k softmax(G_k) Z U_k U_k^T

That is close to the true step for small ``a`` only; with ``a`` above 1 it need not even go down.
"""

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float

PROBE_EPSILON_SQUARED = 0.01
"""Squared precision of the per-layer probe in the authors' code."""


def coding_rate(tokens: Float[Array, "*batch N D"], epsilon: float) -> Float[Array, "*batch"]:
    """``R(Z)``: nats to code ``N`` tokens up to precision ``epsilon``. Invariant to rotations and to the order of tokens.

    Args:
      tokens: one per row. The determinant is that of the smaller Gram matrix, in float32 at least.
      epsilon: positive.

    Raises:
      ValueError: ``epsilon`` that is not positive.
    """
    check_positive("epsilon", epsilon)
    return _rate(tokens, tokens.shape[-1] / (tokens.shape[-2] * epsilon**2))


def projected(tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"]) -> Float[Array, "*batch K N P"]:
    """``Z U_k`` for every subspace."""
    return jnp.einsum("...nd,kdp->...knp", tokens, bases)


def subspace_rate(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float
) -> Float[Array, "*batch"]:
    """``R^c(Z | U)``: nats to code the tokens within the subspaces, summed over these.

    Raises:
      ValueError: ``epsilon`` that is not positive.
    """
    inside, scale = _within(tokens, bases, epsilon)
    return _rate(inside, scale).sum(-1)


def subspace_rate_gradient(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float
) -> Float[Array, "*batch N D"]:
    """The gradient of :func:`subspace_rate` with respect to the tokens, in closed form.

    Raises:
      ValueError: ``epsilon`` that is not positive.
    """
    inside, scale = _within(tokens, bases, epsilon)
    # (I + a W W^T)^-1 W = W (I + a W^T W)^-1: the small matrix is P x P.
    small = jnp.eye(bases.shape[-1], dtype=inside.dtype) + scale * _gram(inside)
    solved = jnp.linalg.solve(small, inside.swapaxes(-1, -2)).swapaxes(-1, -2)
    return scale * jnp.einsum("...knp,kdp->...nd", solved, bases)


def subspace_attention(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float
) -> Float[Array, "*batch N D"]:
    """``MSSA(Z)`` as it is derived: scores without a factor, the output map tied to the bases.

    Raises:
      ValueError: ``epsilon`` that is not positive.
    """
    inside, scale = _within(tokens, bases, epsilon)
    mixed = jax.nn.softmax(inside @ inside.swapaxes(-1, -2), axis=-1) @ inside
    return scale * jnp.einsum("...knp,kdp->...nd", mixed, bases)


def compression_step(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float, step_size: float
) -> Float[Array, "*batch N D"]:
    """``(1 - kappa a) Z + kappa a MSSA(Z)``: attention as an approximate gradient step down ``R^c``.

    Args:
      tokens: one per row.
      bases: of the subspaces; together they should sum to the identity, ``sum_k U_k U_k^T = I``.
      epsilon: precision.
      step_size: ``kappa``, positive.

    Raises:
      ValueError: ``epsilon`` or ``step_size`` that is not positive.
    """
    check_positive("step_size", step_size)
    attended = subspace_attention(tokens, bases, epsilon)  # holds one factor a already, and the expansion has a^2
    pull = step_size * bases.shape[-1] / (tokens.shape[-2] * epsilon**2)
    return (1 - pull) * tokens + pull * attended


def sparse_rate_reduction(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float, sparsity_weight: float
) -> Float[Array, "*batch"]:
    """``R - R^c - lambda |Z|_1``, which a good representation makes large.

    Raises:
      ValueError: ``epsilon`` that is not positive, or a negative ``sparsity_weight``.
    """
    if not sparsity_weight >= 0:
        raise ValueError(f"sparsity_weight must be at least 0, got {sparsity_weight}")
    gain = coding_rate(tokens, epsilon) - subspace_rate(tokens, bases, epsilon)
    return gain - sparsity_weight * jnp.abs(tokens).sum((-1, -2))


def layer_rate(
    subspace_tokens: Float[Array, "*batch H N E"], epsilon_squared: float = PROBE_EPSILON_SQUARED
) -> Float[Array, "*batch"]:
    """The probe of the authors' figures: ``R^c`` of a layer's projected tokens, each scaled to unit length within its head.

    Not literally ``R^c`` of the layer's output: tokens are those behind the norm, and lengths are taken out.

    Args:
      subspace_tokens: what :class:`jaxdec.models.crate.SubspaceAttention` notes under that name. A token of length zero in
        some head gives NaN.
      epsilon_squared: squared precision.

    Raises:
      ValueError: ``epsilon_squared`` that is not positive.
    """
    check_positive("epsilon_squared", epsilon_squared)
    num_tokens, width = subspace_tokens.shape[-2:]
    unit = subspace_tokens / jnp.linalg.norm(subspace_tokens, axis=-1, keepdims=True)
    return _rate(unit, width / (num_tokens * epsilon_squared)).sum(-1)


def nonzero_fraction(codes: Float[Array, "*batch N D"]) -> Float[Array, "*batch"]:
    """Share of entries that are not exactly zero, per sample: what the authors plot as sparsity of a layer's codes."""
    return (codes != 0).mean((-1, -2), dtype=jnp.float32)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a positive number."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def _within(
    tokens: Float[Array, "*batch N D"], bases: Float[Array, "K D P"], epsilon: float
) -> tuple[Float[Array, "*batch K N P"], float]:
    """The projected tokens, and the factor ``a``."""
    check_positive("epsilon", epsilon)
    return projected(tokens, bases), bases.shape[-1] / (tokens.shape[-2] * epsilon**2)


def _gram(rows: Float[Array, "*batch N P"]) -> Float[Array, "*batch P P"]:
    return rows.swapaxes(-1, -2) @ rows


def _rate(tokens: Float[Array, "*batch N D"], scale: float) -> Float[Array, "*batch"]:
    """``1/2 logdet(I + scale Z^T Z)`` through the smaller of the two Gram matrices."""
    wide = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    if wide.shape[-2] < wide.shape[-1]:
        wide = wide.swapaxes(-1, -2)
    identity = jnp.eye(wide.shape[-1], dtype=wide.dtype)
    return 0.5 * jnp.linalg.slogdet(identity + scale * _gram(wide))[1]
