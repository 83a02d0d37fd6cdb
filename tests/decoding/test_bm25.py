"""BM25 against the formula, document by document, and what its terms do."""

import math

import numpy as np
import pytest

from jaxdec.decoding.bm25 import bm25

DOCUMENTS = [
    ["the", "cat", "sat", "on", "the", "mat"],
    ["a", "dog"],
    [],
    ["the", "dog", "saw", "the", "cat", "and", "the", "cat", "ran"],
]


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.0, 1.0), (2.0, 0.0)])
def test_is_the_formula(k1, b):
    question = ["the", "cat", "saw", "cat", "nothing"]
    mean = sum(map(len, DOCUMENTS)) / len(DOCUMENTS)
    wanted = []
    for document in DOCUMENTS:
        score = 0.0
        for term in question:
            having = sum(term in other for other in DOCUMENTS)
            times = document.count(term)
            if times:
                idf = math.log(1 + (len(DOCUMENTS) - having + 0.5) / (having + 0.5))
                score += idf * times * (k1 + 1) / (times + k1 * (1 - b + b * len(document) / mean))
        wanted.append(score)
    np.testing.assert_allclose(bm25(DOCUMENTS, question, k1=k1, b=b), wanted, rtol=1e-12)
    assert np.argmax(wanted) == 3


def test_rare_terms_decide_and_nothing_shared_is_nothing():
    token_ids = [[7, 7, 7, 1], [7, 7, 7, 2], [7, 3, 3, 3]]
    assert np.argmax(bm25(token_ids, [7, 2])) == 1
    assert bm25(token_ids, [9]).tolist() == [0, 0, 0]
    assert bm25([[], []], [9]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: bm25([], [1]), "documents must hold at least one document; got none"),
        (lambda: bm25([[1]], [1], k1=-1), "k1 must be at least 0; got -1"),
        (lambda: bm25([[1]], [1], b=1.5), "b must be in 0..1; got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
