"""Nuclear norm: the sum of the singular values of a matrix, with a gradient that is finite everywhere.

    ||A||_* = sum_i sigma_i        A = U diag(sigma) V^T        d ||A||_* / dA = U V^T   over sigma_i > 0

Where A lacks rank the norm has many subgradients (Watson 1992, "Characterization of the subdifferential of some matrix norms");
ours is the one of least norm, zero at the zero matrix. Repeated singular values do no harm: U V^T does not depend on how their
vectors are chosen. Two ways to the factors:

- ``"svd"``: LAPACK's singular value decomposition; singular values to about ``eps sigma_max``.
- ``"gram"``: eigenvectors V of the Gram matrix of the smaller side, then ``sigma_i = ||A v_i||`` and ``u_i = A v_i / sigma_i``.
  Two products and a symmetric eigenproblem. Square roots of eigenvalues would be wrong by up to ``sqrt(eps) sigma_max``; the
  lengths of ``A v_i`` are wrong by about ``eps sigma_max^2 / sigma'``, ``sigma'`` the next larger value, and their sum is never
  beyond ``sqrt(min(M, N)) ||A||_F``. Gradients suffer in the directions of small values; their Frobenius norm is never above
  ``sqrt(min(M, N))``.

With its gradient, ``"gram"`` is the faster one at all shapes measured: the report of ``python -m experiments.reproduce
--paper=mmcr`` has times. ``"auto"`` takes it where one side is at least twice the other: such matrices with random rows are
well conditioned, and float32 gradients of both methods are then right to 1e-6. Square ones are not: to 5e-5 and to 1e-6.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdec.typing import Array, Float

METHODS = ("auto", "gram", "svd")


def nuclear_norm(matrix: Float[Array, "*batch M N"], method: str = "auto") -> Float[Array, "*batch"]:
    """Sum of the singular values of each matrix.

    Args:
      matrix: computed with in float32 at least.
      method: ``"svd"``, ``"gram"``, or ``"auto"`` (see the module).

    Returns:
      The norms, float32 at least. First derivatives only: the derivative of U V^T is not defined everywhere.

    Raises:
      ValueError: an unknown method, or a matrix without rows or columns.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    *_, rows, columns = matrix.shape
    if rows < 1 or columns < 1:
        raise ValueError(f"matrix must have at least one row and one column, got shape {matrix.shape}")
    if method == "auto":
        method = faster_method(rows, columns)
    return _nuclear_norm(matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32)), method)


def faster_method(rows: int, columns: int) -> str:
    """The method that ``"auto"`` takes for this shape."""
    return "gram" if max(rows, columns) >= 2 * min(rows, columns) else "svd"


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _nuclear_norm(matrix: Float[Array, "*batch M N"], method: str) -> Float[Array, "*batch"]:
    if method == "svd":
        return jnp.linalg.svd(matrix, compute_uv=False).sum(-1)
    return polar_factor(matrix, method)[1].sum(-1)


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(method, primals, tangents):
    gradient, singular_values = polar_factor(primals[0], method)
    return singular_values.sum(-1), jnp.sum(gradient * tangents[0], axis=(-2, -1))


def polar_factor(
    matrix: Float[Array, "*batch M N"], method: str
) -> tuple[Float[Array, "*batch M N"], Float[Array, "*batch R"]]:
    """``U V^T`` over the singular values that are not rounding, and all ``R = min(M, N)`` singular values in no fixed order.

    Rounding is what lies below ``max(M, N) eps sigma_max``, as in ``numpy.linalg.matrix_rank``.

    Args:
      matrix: float32 or float64.
      method: ``"svd"`` or ``"gram"``.
    """
    product = functools.partial(jnp.matmul, precision="highest")  # accelerators would round to fewer bits
    rows, columns = matrix.shape[-2:]
    if method == "svd":
        left, singular_values, right = jnp.linalg.svd(matrix, full_matrices=False)
        return product(left * _is_rank(singular_values, rows, columns)[..., None, :], right), singular_values
    if rows < columns:
        factor, singular_values = polar_factor(matrix.mT, method)
        return factor.mT, singular_values
    _, vectors = jnp.linalg.eigh(product(matrix.mT, matrix))
    image = product(matrix, vectors)
    singular_values = jnp.sqrt(jnp.sum(image * image, axis=-2))
    kept = _is_rank(singular_values, rows, columns)
    scale = kept / jnp.where(kept, singular_values, 1)
    return product(image * scale[..., None, :], vectors.mT), singular_values


def _is_rank(singular_values: Float[Array, "*batch R"], rows: int, columns: int):
    floor = max(rows, columns) * jnp.finfo(singular_values.dtype).eps
    return singular_values > floor * singular_values.max(-1, keepdims=True)
