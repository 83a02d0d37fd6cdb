"""BM25: how well documents match a question, by the words they share.

Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond". Of ``N`` documents, ``n(w)`` have the term
``w``; document ``d`` has it ``f(w, d)`` times and is ``|d|`` terms long,

    idf(w)      = log(1 + (N - n(w) + 1/2) / (n(w) + 1/2))
    score(d, q) = sum over w in q of  idf(w) f(w, d) (k1 + 1) / (f(w, d) + k1 (1 - b + b |d| / mean |d|))

with the ``1 +`` of Lucene, which keeps common terms from counting against a document. Terms are anything that can be compared:
token ids, or words. A term that a question has twice counts twice.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def bm25(
    documents: Sequence[Sequence[Hashable]],
    question: Sequence[Hashable],
    *,
    k1: float | int = 1.5,
    b: float | int = 0.75,
) -> np.ndarray:
    """Score documents.

    Args:
      documents: terms of each; may be empty.
      question: its terms.
      k1: how far a term that occurs again counts again; 0 for not at all.
      b: how far long documents count less, 0 to 1.

    Returns:
      ``float64[N]``, 0 for documents that share nothing with the question.

    Raises:
      ValueError: no documents, a negative ``k1``, or ``b`` outside of 0 to 1.
    """
    if not len(documents):
        raise ValueError("documents must hold at least one document; got none")
    if not k1 >= 0:
        raise ValueError(f"k1 must be at least 0; got {k1}")
    if not 0 <= b <= 1:
        raise ValueError(f"b must be in 0..1; got {b}")
    length = np.array([len(document) for document in documents], float)
    relative = length / max(length.mean(), 1e-9)
    counts = [Counter(document) for document in documents]
    scores = np.zeros(len(documents))
    for term, times in Counter(question).items():
        count = np.array([found[term] for found in counts], float)
        having = (count > 0).sum()
        idf = np.log1p((len(documents) - having + 0.5) / (having + 0.5))
        scores += np.where(
            count > 0, times * idf * count * (k1 + 1) / (count + k1 * (1 - b + b * relative) + (count == 0)), 0
        )
    return scores
