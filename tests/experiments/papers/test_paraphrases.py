"""The paraphrase task: its sentences are those that are drawn, as often as it says."""

from collections import Counter

import numpy as np
import pytest

from experiments.papers.diverse_beam.paraphrase_model import LONGEST_CLAUSE, batch_maker, prompt_length
from experiments.papers.paraphrases import (
    SENTENCES,
    Meaning,
    decode_sentence,
    draw,
    encode_sentence,
    encode_story,
    meanings,
    sentences,
    split,
    stories,
    vocabulary,
)

BAKER = Meaning(agent=9, action=7, patient=8, time=3)  # baker, praised, farmer, yesterday


def test_sentences_by_hand():
    ways = BAKER.sentences()
    assert len(ways) == 12
    assert ways["the baker praised the farmer yesterday"] == pytest.approx(0.62 * 0.5)
    assert ways["one day ago the baker praised the farmer"] == pytest.approx(0.18 * 0.2)
    assert ways["the farmer was praised by the baker the day before"] == pytest.approx(0.14 * 0.3)
    assert ways["yesterday the farmer was praised by the baker"] == pytest.approx(0.06 * 0.5)


@pytest.mark.parametrize("index", [0, 2345, 7000])
def test_every_meaning_has_so_many_different_sentences(index):
    meaning = meanings()[index]
    ways = meaning.sentences()
    assert len(ways) in SENTENCES
    assert sum(ways.values()) == pytest.approx(1)
    for sentence in ways:
        tokens = encode_sentence(sentence)
        assert len(tokens) <= LONGEST_CLAUSE
        assert decode_sentence([*tokens, 5, 6]) == sentence
    assert len(encode_story((meaning,))) == prompt_length(1)


def test_sentences_are_drawn_by_their_probability():
    rng = np.random.default_rng(0)
    drawn = Counter(BAKER.draw(rng) for _ in range(6000))
    for sentence, chance in BAKER.sentences().items():
        assert drawn.pop(sentence, 0) / 6000 == pytest.approx(chance, abs=5 * (chance / 6000) ** 0.5)
    assert not drawn


def test_held_out_meanings_are_not_trained_on():
    training, held_out = split(50, seed=3)
    assert len(held_out) == 50
    assert sorted(training + held_out) == sorted(meanings())
    assert split(50, seed=3) == (training, held_out)
    assert split(50, seed=4)[1] != held_out
    with pytest.raises(ValueError, match=rf"num_held_out must be between 1 and {len(meanings()) - 1}, got 0"):
        split(0, seed=3)


def test_a_story_is_told_in_all_combinations():
    first, second = meanings()[0], BAKER
    ways = sentences((first, second))
    assert len(ways) == len(first.sentences()) * 12
    assert sum(ways.values()) == pytest.approx(1)
    one, other = (next(iter(meaning.sentences())) for meaning in (first, second))
    assert ways[f"{one} and {other}"] == pytest.approx(first.sentences()[one] * second.sentences()[other])
    assert sentences((second,)) == second.sentences()
    rng = np.random.default_rng(0)
    assert all(draw((first, second), rng) in ways for _ in range(50))


def test_stories_begin_with_every_meaning_once():
    chosen = list(meanings()[:5])
    assert stories(chosen, 1) == [(meaning,) for meaning in chosen]
    pairs = stories(chosen, 2)
    assert [pair[0] for pair in pairs] == chosen
    assert all(pair[0] != pair[1] for pair in pairs)


@pytest.mark.parametrize("num_clauses", [1, 2])
def test_batches_are_stories_told_and_pure(num_clauses):
    training = list(meanings()[:40])
    batch_at = batch_maker(training, num_clauses, 16, seed=1)
    batch, begin = batch_at(7), prompt_length(num_clauses)
    by_prompt = {tuple(encode_story((meaning,))[:4]): meaning for meaning in training}
    for tokens, weights in zip(batch.tokens.tolist(), batch.weights.tolist()):
        story = tuple(by_prompt[tuple(tokens[4 * i : 4 * i + 4])] for i in range(num_clauses))
        assert tokens[:begin] == encode_story(story)
        sentence = decode_sentence(tokens[begin:])
        assert sentence in sentences(story)
        size = len(encode_sentence(sentence))
        assert weights == [0.0] * begin + [1.0] * size + [0.0] * (LONGEST_CLAUSE * num_clauses - size)
    assert (batch_at(7).tokens == batch.tokens).all()
    assert not (batch_at(8).tokens == batch.tokens).all()
    assert max(map(max, batch.tokens.tolist())) < len(vocabulary())
