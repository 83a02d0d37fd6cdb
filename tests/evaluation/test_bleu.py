"""BLEU against values worked out by hand, and what must be true of self-BLEU."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.evaluation import self_bleu, sentence_bleu

words = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=8).map(" ".join)


def test_a_value_worked_out_by_hand():
    # the cat sat on the mat / the cat sat on a mat: n-grams found 5 of 6, 3 of 5, 2 of 4, 1 of 3; equal lengths.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert sentence_bleu("the cat sat on the mat", ["the cat sat on a mat"]) == pytest.approx(expected)
    # A second reference has what was missing, but for "cat sat on the", and "the" twice in one text: counts are clipped.
    both = ["the cat sat on a mat", "he sat on the mat there"]
    assert sentence_bleu("the cat sat on the mat", both) == pytest.approx(100 * (5 / 6 * 5 / 5 * 4 / 4 * 2 / 3) ** 0.25)


def test_short_texts_pay_for_their_brevity():
    # Two of four words: unigram and bigram precision 1 (no longer n-grams exist), brevity e^(1 - 4/2).
    assert sentence_bleu("a b", ["a b c d"], tokenize="none") == pytest.approx(100 * math.exp(-1))
    # The closest reference counts, not the longest.
    assert sentence_bleu("a b", ["a b c d", "a b x"], tokenize="none") == pytest.approx(100 * math.exp(-0.5))


def test_a_missing_ngram_is_smoothed_and_nothing_in_common_is_zero():
    # 2 of 4 words, no bigram: precisions 1/2, then 1/(2*3), 1/(4*2), 1/(8*1).
    expected = 100 * (1 / 2 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25
    assert sentence_bleu("a x b y", ["a b c d"], tokenize="none") == pytest.approx(expected)
    assert sentence_bleu("x y", ["a b"], tokenize="none") == 0
    assert sentence_bleu("", ["a b"]) == 0


def test_words_are_split_as_asked():
    assert sentence_bleu("a cat.", ["a cat ."]) == pytest.approx(100)
    assert sentence_bleu("a cat.", ["a cat ."], tokenize="none") < 100


@settings(max_examples=60)
@given(words, st.lists(words, min_size=1, max_size=4))
def test_another_reference_never_hurts_when_all_are_of_one_length(text, references):
    length = len(text.split())
    references = [" ".join((reference.split() * 8)[:length]) for reference in references]
    scores = [sentence_bleu(text, references[:k], tokenize="none") for k in range(1, len(references) + 1)]
    assert scores == sorted(scores)
    assert 100 - 1e-9 < sentence_bleu(text, [*references, text], tokenize="none") <= 100


def test_self_bleu_is_the_mean_over_the_others():
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(100)
    assert self_bleu(["a b", "c d", "e f"], tokenize="none") == 0
    texts = ["a b c d", "a b c e", "x b c d"]
    expected = sum(sentence_bleu(t, [u for u in texts if u != t]) for t in texts) / 3
    assert self_bleu(texts) == pytest.approx(expected)
    assert 0 < expected < 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sentence_bleu("a", []), "references is empty"),
        (lambda: sentence_bleu("a", "a b"), "references must be a list of texts, got the string 'a b'"),
        (lambda: sentence_bleu("a", ["a"], tokenize="spaces"), "tokenize must be one of 13a, .* got 'spaces'"),
        (lambda: self_bleu(["a"]), "texts has 1 entries: self-BLEU compares at least two"),
        (lambda: self_bleu([]), "texts has 0 entries"),
        (lambda: self_bleu("ab"), "texts must be a list of texts, got the string 'ab'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
