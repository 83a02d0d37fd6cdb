"""How relevant each chunk of a bi-level prompt is to a question, from the model's own queries and the pooled keys.

Stands in for the text-video retriever of Video-XL-2 (Qin et al. 2025, arXiv 2506.19225) and needs no second model. With the
queries of the question and the pooled keys, both without rotation, ``s(t, j) = q_t . k_j / sqrt(E)`` for question token ``t``
and content entry ``j``, a chunk ``C`` has the score

    mean    mean over layers, heads and t of  mean over j in C of  s(t, j)
    max     mean over layers, heads and t of  max over j in C of  s(t, j)
    mass    mean over layers of  max over heads of  mean over t of  sum over j in C of  softmax(s(t, .))_j

and ``-inf`` without content; the softmax is over the content of all chunks. ``mass`` lets the one head decide that looks things
up. The question is fed once, over the cache in which all chunks are pooled, to have its queries.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxdec.cache.bilevel import BilevelCache
from jaxdec.cache.contiguous import ContiguousCache
from jaxdec.cache.pooled_chunks import Rotation, turn
from jaxdec.cache.weighted import WeightedCache
from jaxdec.typing import Array, Bool, Float, Int

REDUCTIONS = ("mass", "max", "mean")


class QuestionScores(struct.PyTreeNode):
    """A cache that adds up scores while the question passes through it. It is fed once, with nothing before the question.

    Attributes:
      entries: what the question reads.
      keys: per layer the content entries of the pooled version, without rotation.
      used: which of them there are.
      question_length: tokens of each question; what lies behind does not count.
      position: of the first token of each question.
      scores: so far, summed over layers.
      rotation: of the model.
      reduction: of products to scores.
    """

    entries: ContiguousCache | WeightedCache
    keys: tuple[Float[Array, "B G N W E"], ...]
    used: Bool[Array, "B N W"]
    question_length: Int[Array, "B"]
    position: Int[Array, "B"]
    scores: Float[Array, "B N"]
    rotation: Rotation = struct.field(pytree_node=False)
    reduction: str = struct.field(pytree_node=False)

    @classmethod
    def over(
        cls,
        bilevel: BilevelCache,
        entries: ContiguousCache | WeightedCache,
        question_length: Int[Array, "B"],
        position: Int[Array, "B"],
        reduction: str = "mass",
    ) -> "QuestionScores":
        """Scores for the chunks of ``bilevel``.

        Args:
          bilevel: the prompts.
          entries: a cache assembled from them, with room for the questions.
          question_length: tokens of each question, at least 1.
          position: of the first token of each question.
          reduction: ``"mass"``, ``"max"`` or ``"mean"``.

        Raises:
          ValueError: another reduction.
        """
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
        layout, num_chunks = bilevel.layout, len(bilevel.dense)
        first = layout.entries[:, 0]
        content = first % layout.tokens_in_group >= layout.marker
        pooled = bilevel.pooled.keys
        keys = tuple(
            layer.reshape(*layer.shape[:2], num_chunks, len(first), layer.shape[3])[:, :, :, content]
            for layer in pooled
        )
        begin = layout.prefix + layout.chunk * jnp.arange(num_chunks)[:, None] + first[content]
        used = begin < bilevel.length[:, None, None]
        scores = jnp.zeros(used.shape[:2], jnp.promote_types(pooled.dtype, jnp.float32))
        return cls(entries, keys, used, question_length, position, scores, bilevel.rotation, reduction)

    @property
    def length(self) -> Int[Array, "B"]:
        """Committed entries per row."""
        return self.entries.length

    @property
    def capacity(self) -> int:
        """Slots per row."""
        return self.entries.capacity

    @property
    def nbytes(self) -> int:
        """Bytes of what the question reads, and of the keys that it is scored against."""
        return self.entries.nbytes + sum(layer.nbytes for layer in self.keys)

    def mask(self, num_new: int, visible: Bool[Array, "B T T"] | None) -> Any:
        """Which slots each new token may read."""
        return self.entries.mask(num_new, visible)

    def append(self, layer: int, keys: Float[Array, "B T G E"], values: Float[Array, "B T G E"]) -> "QuestionScores":
        """Write one layer's new keys and values."""
        return self.replace(entries=self.entries.append(layer, keys, values))

    def observe(self, layer: int, queries: Float[Array, "B T H E"]) -> "QuestionScores":
        """Add the scores of one layer."""
        batch, num_new, num_heads, width = queries.shape
        num_kv_heads, group = self.keys[0].shape[1], num_heads // self.keys[0].shape[1]
        at = self.position[:, None] + jnp.arange(num_new, dtype=self.position.dtype)
        plain = turn(queries.swapaxes(1, 2), self.rotation(at), self.rotation(jnp.zeros_like(at)))
        keys = self.keys[layer].astype(plain.dtype).reshape(batch * num_kv_heads, -1, width)

        def of_head(head):  # plain products: with batch dimensions they are slow on processors
            own, theirs = head
            return jnp.dot(own, theirs.T, precision=jax.lax.Precision.HIGHEST)

        scores = jax.lax.map(of_head, (plain.reshape(batch * num_kv_heads, group * num_new, width), keys))
        scores = scores.reshape(batch, num_heads, num_new, *self.used.shape[1:]) * width**-0.5
        used = self.used[:, None, None]
        if self.reduction == "mass":
            scores = jnp.where(used, scores, -jnp.inf)
            scores = jax.nn.softmax(scores, axis=(-2, -1)).sum(axis=-1)
        elif self.reduction == "max":
            scores = jnp.where(used, scores, -jnp.inf).max(axis=-1)
        else:
            scores = jnp.where(used, scores, 0).sum(axis=-1) / jnp.maximum(used.sum(axis=-1), 1)
        counts = (jnp.arange(num_new) < self.question_length[:, None])[:, None, :, None]
        scores = jnp.where(counts, scores, 0).sum(axis=2) / jnp.maximum(counts.sum(axis=2), 1)
        scores = scores.max(axis=1) if self.reduction == "mass" else scores.mean(axis=1)
        scores = jnp.where(self.used.any(axis=-1), scores, -jnp.inf)
        return self.replace(scores=self.scores + scores / len(self.keys))

    def attend(self, layer: int, queries: Float[Array, "B T H E"], mask: Any) -> Float[Array, "B T H E"]:
        """Attention to what the question reads."""
        return self.entries.attend(layer, queries, mask)

    def commit(self, path: Int[Array, "B A"] | None, count: Int[Array, "B"]) -> "QuestionScores":
        """Advance what the question reads."""
        return self.replace(entries=self.entries.commit(path, count))

    def fork(self, rows: Int[Array, "R"]) -> "QuestionScores":
        """Copy rows: row ``r`` of the result is row ``rows[r]``."""
        return jax.tree.map(lambda array: array[rows], self)
