"""How much a candidate token repeats earlier groups: the functions Delta of diverse beam search, with their sign turned.

``overlap(c) = -Delta(Y^1 .. Y^{g-1})[c] >= 0`` for every candidate token ``c`` of group ``g`` at time ``t``. Vijayakumar et al.
2016 (arXiv 1610.02424) define the first form and name the others; their formulas were in a supplement we do not have, and are
ours here. ``y_t`` is the token that beam ``y`` of an earlier group has taken at this very step:

    hamming     number of earlier beams y with y_t = c                                              (the paper's)
    cumulative  number of pairs (y, s), s <= t generated positions, with y_s = c                    (ours)
    ngram       number of places in earlier beams' generated text where the n-gram that c would complete ends: an n-gram may
                begin in the prompt, and ends at a generated position                               (ours)
    embedding   sum over earlier beams y of max(0, cos(e_c, e_{y_t})), e the token embeddings       (ours)

Beams are counted, not groups. Only beams that took a token at this step count: not those that are dead or whose group has
ended; an end token never counts, since a text that took one has left the running beams.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.typing import Array, Bool, Float, Int

DIVERSITIES = ("hamming", "cumulative", "ngram", "embedding")


class EarlierGroups(struct.PyTreeNode):
    """Texts of the groups that have already moved at this step.

    Attributes:
      tokens: prompt and generated tokens, this step's included.
      counts: whether the beam counts; False for the places of later groups.
    """

    tokens: Int[Array, "B K L"]
    counts: Bool[Array, "B K"]


def hamming(earlier: EarlierGroups, length: Int[Array, "B"], vocab_size: int) -> Float[Array, "B 1 V"]:
    """Uses of each token at this step. ``length`` counts the tokens before this step's."""
    chosen = jnp.take_along_axis(earlier.tokens, length[:, None, None], axis=2)[..., 0]
    return _histogram(chosen, earlier.counts, vocab_size)[:, None]


def cumulative(
    earlier: EarlierGroups, prompt_length: Int[Array, "B"], length: Int[Array, "B"], vocab_size: int
) -> Float[Array, "B 1 V"]:
    """Uses of each token at all generated positions up to this step."""
    place = jnp.arange(earlier.tokens.shape[2])
    generated = (place >= prompt_length[:, None]) & (place <= length[:, None])
    counts = earlier.counts[:, :, None] & generated[:, None]
    batch = length.shape[0]
    return _histogram(earlier.tokens.reshape(batch, -1), counts.reshape(batch, -1), vocab_size)[:, None]


def ngram(
    earlier: EarlierGroups,
    tokens: Int[Array, "B W L"],
    prompt_length: Int[Array, "B"],
    length: Int[Array, "B"],
    vocab_size: int,
    ngram_size: int,
) -> Float[Array, "B W V"]:
    """Uses of the n-gram that each token would complete; ``tokens`` are the group's texts before this step."""
    positions = tokens.shape[2]
    place = jnp.arange(positions)
    ends_here = (place >= prompt_length[:, None]) & (place <= length[:, None]) & (place >= ngram_size - 1)
    match = (
        earlier.counts[:, None, :, None] & ends_here[:, None, None]
    )  # [B, W, K, L]: the n-gram that ends here agrees
    match = jnp.broadcast_to(match, (*tokens.shape[:2], *earlier.tokens.shape[1:]))
    for back in range(1, ngram_size):
        index = jnp.maximum(length - back, 0)[:, None, None]
        own = jnp.take_along_axis(tokens, jnp.broadcast_to(index, (*tokens.shape[:2], 1)), axis=2)
        match &= (jnp.roll(earlier.tokens, back, axis=2)[:, None] == own[..., None]) & (length >= back)[
            :, None, None, None
        ]
    candidates = jnp.broadcast_to(earlier.tokens[:, None], match.shape)
    batch, width = tokens.shape[:2]
    uses = _histogram(candidates.reshape(batch * width, -1), match.reshape(batch * width, -1), vocab_size)
    return uses.reshape(batch, width, vocab_size)


def embedding(earlier: EarlierGroups, length: Int[Array, "B"], table: Float[Array, "V D"]) -> Float[Array, "B 1 V"]:
    """Summed positive cosine of each token with the tokens chosen at this step."""
    wide = table.astype(jnp.promote_types(table.dtype, jnp.float32))
    norm = jnp.maximum(jnp.linalg.norm(wide, axis=1), 1e-12)
    chosen = jnp.take_along_axis(earlier.tokens, length[:, None, None], axis=2)[..., 0]
    directions = wide[chosen] / norm[chosen][..., None]
    batch, num_beams, size = directions.shape
    cosine = directions.reshape(-1, size) @ wide.T / norm
    similarity = jnp.maximum(cosine, 0).reshape(batch, num_beams, -1)
    return jnp.where(earlier.counts[..., None], similarity, 0).sum(1, keepdims=True)


def _histogram(tokens: Int[Array, "R M"], counts: Bool[Array, "R M"], vocab_size: int) -> Float[Array, "R V"]:
    """Count each row's tokens."""

    def row(tokens, counts):
        return jnp.zeros(vocab_size, jnp.float32).at[tokens].add(counts.astype(jnp.float32))

    return jax.vmap(row)(tokens, counts)
