"""CRATE: a transformer layer is one step of compression, then one step of sparse coding.

Yu et al. 2023, "White-Box Transformers via Sparse Rate Reduction" (arXiv 2306.01129, 2311.13110); CRATE-alpha: Yang et al. 2024
(arXiv 2405.20299). Tokens are rows. One matrix ``U`` of ``H`` subspaces makes queries, keys and values at once:

    W_h = LN(Z) U_h                    Z <- Z + [softmax(W_h W_h^T / sqrt(E)) W_h]_h O            (MSSA)
    X   = LN(Z)                        Z <- ReLU(X + eta (X - X D^T) D - eta lambda)              (ISTA)

The first is a step down the coding rate within subspaces (:mod:`jaxdec.objectives.coding_rate`), with the output map ``O``
learnt apart from ``U`` and no damping of ``Z``, as in the authors' code. The second is one step of iterative shrinkage for
``min_Z lambda |Z|_1 + 1/2 |X - Z D^T|^2`` over ``Z >= 0``, begun at ``X``; it *replaces* the stream. CRATE-alpha codes in a
dictionary four times as wide, from zero and in two steps, and adds what a second dictionary makes of the codes:

    Z1 = ReLU(eta X D - eta lambda)    Z2 = ReLU(Z1 - eta (Z1 D^T - X) D - eta lambda)            Z <- Z + Z2 D1^T

Modules note what the figures of the paper show (flax's ``intermediates``): ``subspace_tokens`` (``W``), ``codes``.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdec.models.linear import linear
from jaxdec.typing import Array, Bool, Float

ETA = 0.1
LAMBDA = 0.1
OVERCOMPLETE = 4
"""Codes per channel in CRATE-alpha."""


@dataclasses.dataclass(frozen=True)
class CrateConfig:
    """Shape of a stack of CRATE layers.

    Attributes:
      hidden_size: width of the tokens.
      num_layers: depth.
      num_heads: subspaces.
      head_dim: dimension of a subspace; ``hidden_size / num_heads`` if None.
      step_size: ``eta``. The codes are sure to get better only up to one over the squared norm of the dictionary.
      threshold: ``lambda``; 0.5 in the encoder of the masked auto-encoder.
      overcomplete: CRATE-alpha's coding.
      output_bias: whether the output map of attention has a bias.
      tie_output: the output map is ``U^T``, as derived; the published models learn it apart.
      norm_eps: of layer norms.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int | None = None
    step_size: float = ETA
    threshold: float = LAMBDA
    overcomplete: bool = False
    output_bias: bool = True
    tie_output: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self):
        for name in ("hidden_size", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_heads ({self.num_heads}) unless head_dim is given"
            )
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"head_dim must be at least 1, got {self.head_dim}")
        if not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be positive, got {self.norm_eps}")

    @property
    def subspace_dim(self) -> int:
        """Dimension of one subspace."""
        return self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim


SIZES = {
    "tiny": CrateConfig(hidden_size=384, num_layers=12, num_heads=6),
    "small": CrateConfig(hidden_size=576, num_layers=12, num_heads=12),
    "base": CrateConfig(hidden_size=768, num_layers=12, num_heads=12),
    "large": CrateConfig(hidden_size=1024, num_layers=24, num_heads=16),
}
"""The published sizes."""


def dictionary_init(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "O I"]:
    """Uniform with variance ``2 / fan_in``, the default of PyTorch's ``kaiming_uniform_`` for a matrix stored (out, in)."""
    return nn.initializers.variance_scaling(2.0, "fan_in", "uniform", in_axis=1, out_axis=0)(key, shape, dtype)


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last axis, in float32 at least, then scale and shift."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalise."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)


class SubspaceAttention(nn.Module):
    """MSSA: what a token is in each subspace is its query, key and value there.

    Two calls, since a decoding cache may stand between them: :meth:`project`, and :meth:`combine` on what attention makes of
    it. :meth:`__call__` is both with attention among the tokens themselves.
    """

    config: CrateConfig
    dtype: Any = jnp.float32
    row_tile: int = 1

    def setup(self):
        """Declare the parameters: both maps are stored (out, in)."""
        config, inner = self.config, self.config.num_heads * self.config.subspace_dim
        init = nn.initializers.xavier_uniform(in_axis=1, out_axis=0)
        self.bases = self.param("bases", init, (inner, config.hidden_size), self.dtype)
        if not config.tie_output:
            self.output = self.param("output", init, (config.hidden_size, inner), self.dtype)
        if config.output_bias:
            self.output_bias = self.param("output_bias", nn.initializers.zeros, (config.hidden_size,), self.dtype)

    def project(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H E"]:
        """``W``: the tokens in every subspace. Noted as ``subspace_tokens [B, H, T, E]``."""
        config = self.config
        inside = linear(x, self.bases, self.row_tile)
        inside = inside.reshape(*x.shape[:-1], config.num_heads, config.subspace_dim)
        self.sow("intermediates", "subspace_tokens", inside.swapaxes(1, 2))
        return inside

    def combine(self, mixed: Float[Array, "B T H E"]) -> Float[Array, "B T D"]:
        """The output map."""
        flat = mixed.reshape(*mixed.shape[:-2], -1)
        out = linear(flat, self.bases.T if self.config.tie_output else self.output, self.row_tile)
        return out + self.output_bias if self.config.output_bias else out

    def __call__(self, x: Float[Array, "B T D"], visible: Bool[Array, "B T T"] | None = None) -> Float[Array, "B T D"]:
        """Attend among the tokens; ``visible[b, i, j]``: token ``i`` may see token ``j``, all by default."""
        return self.combine(attend(self.project(x), visible))


def attend(inside: Float[Array, "B T H E"], visible: Bool[Array, "B T T"] | None = None) -> Float[Array, "B T H E"]:
    """``softmax(W W^T / sqrt(E)) W`` per head. Every token must see one at least."""
    return jnp.einsum("bhij,bjhe->bihe", attention_map(inside, visible), inside)


def attention_map(
    inside: Float[Array, "B T H E"], visible: Bool[Array, "B T T"] | None = None
) -> Float[Array, "B H T T"]:
    """Weights of attention; before the softmax they are symmetric."""
    scores = jnp.einsum("bihe,bjhe->bhij", inside, inside) * inside.shape[-1] ** -0.5
    if visible is None:
        return jax.nn.softmax(scores, axis=-1)
    return jax.nn.softmax(scores, axis=-1, where=visible[:, None])


class SparseCoding(nn.Module):
    """ISTA: one step of shrinkage in a square dictionary; the codes are what goes on. Noted as ``codes [B, T, D]``."""

    config: CrateConfig
    dtype: Any = jnp.float32
    row_tile: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Code normalised tokens."""
        config = self.config
        dictionary = self.param("dictionary", dictionary_init, (x.shape[-1], x.shape[-1]), self.dtype)
        residual = x - linear(x, dictionary, self.row_tile)  # x - x D^T
        step = config.step_size * (linear(residual, dictionary.T, self.row_tile) - config.threshold)
        codes = nn.relu(x + step)
        self.sow("intermediates", "codes", codes)
        return codes


class OvercompleteCoding(nn.Module):
    """CRATE-alpha's coding: two steps from zero in a wide dictionary, decoded by another. Notes ``codes [B, T, 4D]``."""

    config: CrateConfig
    dtype: Any = jnp.float32
    row_tile: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return what is to be added to the tokens."""
        config, width = self.config, x.shape[-1]
        shape = (width, OVERCOMPLETE * width)
        init = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")  # of flax: over the rows
        dictionary = self.param("dictionary", init, shape, self.dtype)
        decoder = self.param("decoder", init, shape, self.dtype)

        def analysed(tokens):  # x D
            return linear(tokens, dictionary.T, self.row_tile)

        bias = config.step_size * config.threshold
        first = nn.relu(config.step_size * analysed(x) - bias)
        wrong = linear(first, dictionary, self.row_tile) - x
        codes = nn.relu(first - config.step_size * analysed(wrong) - bias)
        self.sow("intermediates", "codes", codes)
        return linear(codes, decoder, self.row_tile)


class CrateLayer(nn.Module):
    """One layer: compress, then code."""

    config: CrateConfig
    dtype: Any = jnp.float32
    row_tile: int = 1

    def setup(self):
        """Declare the parts."""
        config = self.config
        self.attention_norm, self.coding_norm = LayerNorm(config.norm_eps), LayerNorm(config.norm_eps)
        self.attention = SubspaceAttention(config, self.dtype, self.row_tile)
        coding = OvercompleteCoding if config.overcomplete else SparseCoding
        self.coding = coding(config, self.dtype, self.row_tile)

    def project(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H E"]:
        """The normalised tokens in the subspaces."""
        return self.attention.project(self.attention_norm(x))

    def after_attention(self, x: Float[Array, "B T D"], mixed: Float[Array, "B T H E"]) -> Float[Array, "B T D"]:
        """What follows attention within the subspaces."""
        x = x + self.attention.combine(mixed)
        coded = self.coding(self.coding_norm(x))
        return x + coded if self.config.overcomplete else coded

    def __call__(self, x: Float[Array, "B T D"], visible: Bool[Array, "B T T"] | None = None) -> Float[Array, "B T D"]:
        """Run the layer among the tokens; see :func:`attend` for ``visible``."""
        return self.after_attention(x, attend(self.project(x), visible))
