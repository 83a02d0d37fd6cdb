"""A text collection with a suffix array: where has this stretch of text occurred, and what came next?

He et al. 2023, "REST: Retrieval-Based Speculative Decoding" (arXiv 2311.08252). The suffix array lists the positions of the
collection in the order of the texts that begin there; all occurrences of a stretch of tokens are neighbours in it. Only the
first 32 tokens of each suffix are compared when it is built.
"""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxdec.array_files import load_arrays, save_arrays
from jaxdec.typing import Array, Int

KIND = "jaxdec datastore"
ORDERED = 32  # tokens that suffixes are compared by; a power of two


class Datastore(struct.PyTreeNode):
    """Token ids and their suffix array, on the device.

    Attributes:
      tokens: the collection; -1 stands between texts and is never matched.
      suffixes: positions, ordered by the text that begins at each.
      vocab_size: of the model it was made for.
      vocabulary: ``vocabulary_sha256`` of the tokenizer it was made with; empty if that is not known.
    """

    tokens: Int[Array, "M"]
    suffixes: Int[Array, "M"]
    vocab_size: int = struct.field(pytree_node=False)
    vocabulary: str = struct.field(pytree_node=False, default="")


def build_datastore(texts: Sequence[Sequence[int]], vocab_size: int, vocabulary: str = "") -> Datastore:
    """Build a datastore from token lists, on the host.

    Args:
      texts: token ids of each text.
      vocab_size: of the model.
      vocabulary: see :class:`Datastore`.

    Raises:
      ValueError: no token at all, or a token outside the vocabulary.
    """
    if not any(texts):
        raise ValueError("texts is empty: give at least one text with one token")
    flat = np.concatenate([np.asarray([*text, -1], np.int64) for text in texts if text])
    if flat.max() >= vocab_size or flat.min() < -1:
        wrong = flat[(flat >= vocab_size) | (flat < -1)][0]
        raise ValueError(f"texts hold token id {wrong}, outside the vocabulary [0, {vocab_size})")
    # Prefix doubling (Manber & Myers 1993): ranks by the first k tokens give ranks by the first 2 k.
    rank = np.unique(flat, return_inverse=True)[1].astype(np.int64)
    reach = 1
    while reach < ORDERED:
        behind = np.concatenate([rank[reach:] + 1, np.zeros(min(reach, len(rank)), np.int64)])[: len(rank)]
        rank = np.unique(rank * (len(rank) + 2) + behind, return_inverse=True)[1].astype(np.int64)
        reach *= 2
    suffixes = np.argsort(rank, kind="stable")
    return Datastore(jnp.asarray(flat, jnp.int32), jnp.asarray(suffixes, jnp.int32), vocab_size, vocabulary)


def save_datastore(path: Path, datastore: Datastore) -> None:
    """Write a datastore to one file, whole or not at all."""
    arrays = {name: np.asarray(getattr(datastore, name)) for name in ("tokens", "suffixes")}
    save_arrays(path, KIND, arrays, vocab_size=datastore.vocab_size, vocabulary=datastore.vocabulary)


def load_datastore(path: Path) -> Datastore:
    """Read what :func:`save_datastore` wrote.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not a datastore, or cut short.
    """
    arrays, facts = load_arrays(path, KIND)
    tokens, suffixes = jnp.asarray(arrays["tokens"]), jnp.asarray(arrays["suffixes"])
    return Datastore(tokens, suffixes, int(facts["vocab_size"]), facts.get("vocabulary", ""))
