"""Maximum manifold capacity representations (MMCR): views of an image together, images apart, by nuclear norms.

Yerxa, Kuang, Simoncelli & Chung 2023 (arXiv 2303.03307). B images with V views each are embedded as ``z_bv`` in R^D:

    z_bv <- z_bv / ||z_bv||        c_b = 1/V sum_v z_bv        C = (c_1 ... c_B)^T in R^{B x D}
    loss = lambda / B sum_b ||Z_b||_* - ||C||_*                Z_b = (z_b1 ... z_bV)^T in R^{V x D}

Centroids are not normalised again: ``||c_b|| = 1`` only if all views agree, which is what pulls views together, so that lambda
may be zero. From ``||C||_* <= sqrt(rank C) ||C||_F`` follows

    ||C||_* <= sqrt(B min(B, D))        sqrt(V) <= ||Z_b||_* <= V

The first is met by orthonormal centroids (B <= D) or unit-norm tight frames (B > D). With a momentum encoder, an average over
earlier weights whose outputs are ``z^m_bv`` and carry no gradient, the centroids are those of both:

    c_b = 1/2 (1/V sum_v z_bv + 1/V sum_v z^m_bv)

The loss is not divided by B, as published: gradients grow with the batch. Under ``jit`` with sharded embeddings the norm is
that of the whole batch; inside ``shard_map`` gather embeddings first (``jax.lax.all_gather(z, axis, tiled=True)``).
"""

import math

import jax
import jax.numpy as jnp

from jaxdec.objectives.nuclear_norm import nuclear_norm
from jaxdec.typing import Array, Bool, Float

SHORTEST = 1e-12
"""Rows of an embedding that are no longer than this have no direction."""


def mmcr_loss(
    embeddings: Float[Array, "rows D"],
    num_views: int,
    *,
    local_weight: float | int = 0.0,
    momentum_embeddings: Float[Array, "momentum_rows features"] | None = None,
    method: str = "auto",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss and what it is made of.

    Args:
      embeddings: projector outputs of all views, those of an image adjacent: view ``v`` of image ``b`` is row ``b V + v``.
        Computed with in float32 at least. Rows of length zero count as zeros and get no gradient.
      num_views: ``V``; a single view only spreads the images.
      local_weight: lambda; at zero the local norms are not computed.
      momentum_embeddings: outputs of the momentum network for the same views, in the same order. With them an image one of
        whose embeddings is not finite is left out; without them the loss is then not finite.
      method: of :func:`jaxdec.objectives.nuclear_norm.nuclear_norm`.

    Returns:
      The loss, and as scalars ``global_nuclear_norm`` of the centroids; ``bound`` on the loss's global term,
      ``-sqrt(B min(B, D))``; ``gap``, how far above the bound that term is; ``zero_rows``, embeddings without a direction;
      with a positive ``local_weight``, ``local_nuclear_norm`` (mean over images); with momentum, ``dropped_images``.

    Raises:
      ValueError: fewer than two images, rows that are not ``B V``, no features, shapes that differ, or a weight or number of
        views out of range.
    """
    num_images = check_views(embeddings, num_views)
    if not (math.isfinite(local_weight) and local_weight >= 0):
        raise ValueError(f"local_weight must be at least 0 and finite, got {local_weight}")
    wide = jnp.promote_types(embeddings.dtype, jnp.float32)
    embeddings = embeddings.astype(wide)
    kept = jnp.asarray(num_images, wide)
    metrics = {}
    momentum_centroids = None
    if momentum_embeddings is not None:
        if momentum_embeddings.shape != embeddings.shape:
            raise ValueError(
                f"momentum_embeddings must have the shape of embeddings, {embeddings.shape}; "
                f"got {momentum_embeddings.shape}"
            )
        momentum_embeddings = jax.lax.stop_gradient(momentum_embeddings).astype(wide)
        finite = _finite_images(embeddings, num_views) & _finite_images(momentum_embeddings, num_views)
        rows = jnp.repeat(finite, num_views, total_repeat_length=num_images * num_views)[:, None]
        # Zero rows do not change the singular values of a matrix: what is dropped becomes zero, and shapes stay static.
        embeddings, momentum_embeddings = jnp.where(rows, embeddings, 0), jnp.where(rows, momentum_embeddings, 0)
        kept = finite.sum().astype(wide)
        metrics["dropped_images"] = num_images - kept
        momentum_centroids = centroids(unit_rows(momentum_embeddings)[0], num_views)
    unit, without_direction = unit_rows(embeddings)
    centres = centroids(unit, num_views)
    if momentum_centroids is not None:
        centres = 0.5 * (centres + momentum_centroids)
    global_norm = nuclear_norm(centres, method)
    bound = -jnp.sqrt(kept * jnp.minimum(kept, unit.shape[1]))
    metrics |= {
        "global_nuclear_norm": global_norm,
        "bound": bound,
        "gap": -global_norm - bound,
        "zero_rows": without_direction.sum().astype(wide),
    }
    if local_weight == 0:
        return -global_norm, metrics
    local_norm = local_nuclear_norms(unit, num_views, method).mean()
    return local_weight * local_norm - global_norm, {**metrics, "local_nuclear_norm": local_norm}


def unit_rows(rows: Float[Array, "N D"]) -> tuple[Float[Array, "N D"], Bool[Array, " N"]]:
    """Rows scaled to length one, and which of them are too short for that: these become zero, without a gradient."""
    squares = jnp.sum(rows * rows, axis=1)
    short = squares <= SHORTEST**2
    scale = jax.lax.rsqrt(jnp.where(short, 1, squares))
    return jnp.where(short[:, None], 0, rows * scale[:, None]), short


def centroids(unit: Float[Array, "rows D"], num_views: int) -> Float[Array, "B D"]:
    """Mean over the views of each image, views adjacent; not normalised."""
    return unit.reshape(-1, num_views, unit.shape[1]).mean(1)


def local_nuclear_norms(unit: Float[Array, "rows D"], num_views: int, method: str = "auto") -> Float[Array, " B"]:
    """``||Z_b||_*`` of each image, of rows of length one: ``sqrt(V)`` if its views agree, ``V`` if they are orthogonal."""
    return nuclear_norm(unit.reshape(-1, num_views, unit.shape[1]), method)


def check_views(embeddings: Float[Array, "rows D"], num_views: int) -> int:
    """Number of images in ``embeddings``.

    Raises:
      ValueError: it is not a whole number, there are fewer than two, or they have no features.
    """
    rows, features = embeddings.shape
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1, got {num_views}")
    if features < 1:
        raise ValueError(f"embeddings must have at least one feature, got shape {embeddings.shape}")
    if rows % num_views:
        raise ValueError(f"embeddings has {rows} rows, which {num_views} views per image do not divide")
    if rows // num_views < 2:
        raise ValueError(f"embeddings must hold at least 2 images, got {rows // num_views}: one cannot be spread")
    return rows // num_views


def _finite_images(embeddings: Float[Array, "rows D"], num_views: int) -> Bool[Array, " B"]:
    return jnp.isfinite(embeddings).reshape(-1, num_views * embeddings.shape[1]).all(1)
