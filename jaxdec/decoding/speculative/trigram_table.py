"""Which tokens follow a pair of tokens, and how often: a hash table of arrays that lives on the device.

The table of ADED (Liu et al. 2025, arXiv 2407.12021): a pair ``(a, b)`` has up to 12 successors with weights. Built from texts,
the weights of a pair are relative frequencies (of all its successors; the rarer ones are then dropped, and what is left is not
renormalised). A pair sits in the first free of :data:`PROBES` places from its hash on (linear probing).

Two tables act together: one built beforehand, shared by all rows and never changed, and a small adaptive one per row that
holds what was added to it while decoding. What a row sees is their sum, capped.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.array_files import load_arrays, save_arrays
from jaxdec.errors import CheckpointError
from jaxdec.typing import Array, Bool, Float, Int

KIND = "jaxdec trigram table"
SUCCESSORS = 12
PROBES = 16
SMALLEST = 8  # places of a table; all of them are probed where they are fewer than the probes
EMPTY = -1


class TrigramTable(struct.PyTreeNode):
    """Pairs and their successors.

    Attributes:
      pairs: the pair at each place; -1 where there is none.
      successors: their successors; -1 where there is none. In a table that was built, the heaviest first.
      weights: their weights; 0 where there is no successor.
      vocab_size: of the model it was made for.
      vocabulary: ``vocabulary_sha256`` of the tokenizer it was made with; empty if that is not known.
    """

    pairs: Int[Array, "... C 2"]
    successors: Int[Array, "... C S"]
    weights: Float[Array, "... C S"]
    vocab_size: int = struct.field(pytree_node=False)
    vocabulary: str = struct.field(pytree_node=False, default="")

    @classmethod
    def empty(cls, capacity: int, vocab_size: int) -> "TrigramTable":
        """A table of ``capacity`` places, a power of two, that holds nothing.

        Raises:
          ValueError: ``capacity`` is no power of two.
        """
        if capacity < SMALLEST or capacity & (capacity - 1):
            raise ValueError(f"capacity must be a power of two and at least {SMALLEST}, got {capacity}")
        return cls(
            pairs=jnp.full((capacity, 2), EMPTY, jnp.int32),
            successors=jnp.full((capacity, SUCCESSORS), EMPTY, jnp.int32),
            weights=jnp.zeros((capacity, SUCCESSORS), jnp.float32),
            vocab_size=vocab_size,
        )

    def find(self, pair: Int[Array, "2"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
        """``(place, whether the pair is there)``; if it is not, the first free place, or -1 if all probed ones are taken."""
        places = _probes(pair, self.pairs.shape[0])
        here = self.pairs[places]
        match, free = (here == pair).all(-1), here[:, 0] == EMPTY
        known = match.any()
        place = jnp.where(known, places[jnp.argmax(match)], jnp.where(free.any(), places[jnp.argmax(free)], -1))
        return place, known

    def lookup(self, pair: Int[Array, "2"]) -> tuple[Int[Array, "S"], Float[Array, "S"]]:
        """Successors and weights of a pair; -1 and 0 where there are none."""
        place, known = self.find(pair)
        place = jnp.maximum(place, 0)
        return jnp.where(known, self.successors[place], EMPTY), jnp.where(known, self.weights[place], 0)

    def add(self, pair: Int[Array, "2"], token: Int[Array, ""], weight: Float[Array, ""]) -> "TrigramTable":
        """Add ``weight`` to one successor of a pair, which takes the place of the lightest if all are taken.

        Nothing happens if ``weight`` is not positive, or if all the places of a new pair are taken.
        """
        place, known = self.find(pair)
        row = jnp.maximum(place, 0)
        successors = jnp.where(known, self.successors[row], EMPTY)
        weights = jnp.where(known, self.weights[row], 0)
        match = successors == token
        slot = jnp.where(match.any(), jnp.argmax(match), jnp.argmin(weights))
        heavier = jnp.where(match.any(), weights[slot], 0) + weight
        do = (place >= 0) & (weight > 0)
        return self.replace(
            pairs=self.pairs.at[row].set(jnp.where(do, pair, self.pairs[row])),
            successors=self.successors.at[row].set(jnp.where(do, successors.at[slot].set(token), self.successors[row])),
            weights=self.weights.at[row].set(jnp.where(do, weights.at[slot].set(heavier), self.weights[row])),
        )


def together(
    built: TrigramTable, adaptive: TrigramTable, pair: Int[Array, "2"], cap: float
) -> tuple[Int[Array, "S"], Float[Array, "S"]]:
    """The heaviest successors of a pair in the sum of two tables, heaviest first, each weight at most ``cap``."""
    (tokens, weights), (more, extra) = built.lookup(pair), adaptive.lookup(pair)
    same = (tokens[:, None] == more) & (more >= 0)
    weights = weights + jnp.where(same, extra, 0).sum(1)
    extra = jnp.where(same.any(0), 0, extra)
    tokens, weights = jnp.concatenate([tokens, more]), jnp.minimum(jnp.concatenate([weights, extra]), cap)
    best, index = jax.lax.top_k(weights, SUCCESSORS)
    return jnp.where(best > 0, tokens[index], EMPTY), best


def build_trigram_table(
    texts: Sequence[Sequence[int]], vocab_size: int, successors: int = SUCCESSORS, vocabulary: str = ""
) -> TrigramTable:
    """Count the tri-grams of texts, on the host.

    Args:
      texts: token ids of each text; texts of fewer than three tokens count for nothing.
      vocab_size: of the model.
      successors: successors kept per pair, at most :data:`SUCCESSORS`.
      vocabulary: see :class:`TrigramTable`.

    Raises:
      ValueError: no tri-gram at all, a token outside the vocabulary, or ``successors`` out of range.
    """
    if not 1 <= successors <= SUCCESSORS:
        raise ValueError(f"successors must be between 1 and {SUCCESSORS}, got {successors}")
    arrays = [np.asarray(text, np.int64) for text in texts if len(text) >= 3]
    if not arrays:
        raise ValueError("texts hold no tri-gram: give at least one text of three tokens")
    for array in arrays:
        if array.min() < 0 or array.max() >= vocab_size:
            wrong = array[(array < 0) | (array >= vocab_size)][0]
            raise ValueError(f"texts hold token id {wrong}, outside the vocabulary [0, {vocab_size})")
    pairs = np.concatenate([a[:-2] * vocab_size + a[1:-1] for a in arrays])
    # Pairs by their rank, so that a tri-gram is one number whatever the vocabulary.
    pair_ids, rank = np.unique(pairs, return_inverse=True)
    trigrams, counts = np.unique(rank * vocab_size + np.concatenate([a[2:] for a in arrays]), return_counts=True)
    owner, tokens = np.divmod(trigrams, vocab_size)
    first, size = np.unique(owner, return_index=True, return_counts=True)[1:]
    totals = np.add.reduceat(counts, first)
    weights = counts / np.repeat(totals, size)
    # Heaviest first within each pair, the lower id where weights are equal.
    order = np.lexsort((tokens, -weights, owner))
    place = np.arange(len(order)) - np.repeat(first, size)
    kept = place < successors
    ids = np.full((len(pair_ids), SUCCESSORS), EMPTY, np.int32)
    masses = np.zeros((len(pair_ids), SUCCESSORS), np.float32)
    ids[owner[kept], place[kept]] = tokens[order[kept]]
    masses[owner[kept], place[kept]] = weights[order[kept]]
    known = np.stack(np.divmod(pair_ids, vocab_size), axis=1).astype(np.int32)
    return _place(known, ids, masses, vocab_size).replace(vocabulary=vocabulary)


def _place(pairs: np.ndarray, ids: np.ndarray, masses: np.ndarray, vocab_size: int) -> TrigramTable:
    """Put pairs into a table large enough for all of them to lie within their probes."""
    capacity = max(64, 1 << (2 * len(pairs) - 1).bit_length())
    while True:
        owner = np.full(capacity, -1, np.int64)
        left = np.arange(len(pairs))
        home = _hash(pairs[:, 0], pairs[:, 1]) & np.uint32(capacity - 1)
        for probe in range(PROBES):
            place = (home[left] + np.uint32(probe)) & np.uint32(capacity - 1)
            free = owner[place] < 0
            chosen, index = np.unique(place[free], return_index=True)  # of those that want one place, the first gets it
            owner[chosen] = left[np.flatnonzero(free)[index]]
            left = np.setdiff1d(left, owner[chosen], assume_unique=True)
        if not len(left):
            break
        capacity *= 2
    table = TrigramTable.empty(capacity, vocab_size)
    used = np.flatnonzero(owner >= 0)
    arrays = [np.array(array) for array in (table.pairs, table.successors, table.weights)]
    for array, values in zip(arrays, (pairs, ids, masses)):
        array[used] = values[owner[used]]
    return TrigramTable(*map(jnp.asarray, arrays), vocab_size=vocab_size)


def _hash(a, b):
    """Mix two ids (uint32 arithmetic that wraps; NumPy and jax alike)."""
    unsigned = jnp.uint32 if isinstance(a, jax.Array) else np.uint32
    a, b = a.astype(unsigned), b.astype(unsigned)
    mixed = (a * unsigned(2654435761)) ^ (b * unsigned(2246822519))
    mixed = (mixed ^ (mixed >> unsigned(15))) * unsigned(3266489917)
    return mixed ^ (mixed >> unsigned(13))


def _probes(pair: Int[Array, "2"], capacity: int) -> Int[Array, "P"]:
    home = _hash(pair[0], pair[1]) & jnp.uint32(capacity - 1)
    probes = jnp.arange(min(PROBES, capacity), dtype=jnp.uint32)
    return ((home + probes) & jnp.uint32(capacity - 1)).astype(jnp.int32)


def save_trigram_table(path: Path, table: TrigramTable) -> None:
    """Write a table to one file, whole or not at all."""
    arrays = {name: np.asarray(getattr(table, name)) for name in ("pairs", "successors", "weights")}
    save_arrays(path, KIND, arrays, vocab_size=table.vocab_size, vocabulary=table.vocabulary)


def load_trigram_table(path: Path) -> TrigramTable:
    """Read what :func:`save_trigram_table` wrote.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not a table, cut short, or with weights that are negative or not finite.
    """
    arrays, facts = load_arrays(path, KIND)
    weights = arrays["weights"]
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise CheckpointError(f"{path} holds weights that are negative or not finite")
    named = {name: jnp.asarray(arrays[name]) for name in ("pairs", "successors", "weights")}
    return TrigramTable(**named, vocab_size=int(facts["vocab_size"]), vocabulary=facts.get("vocabulary", ""))
