"""The retrieval tasks in symbols: answers read off the prompts again, lengths, scores, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.evaluation.long_context.token_tasks import (
    ANSWER,
    ASK,
    BOS,
    FIRST_SYMBOL,
    NUM_SYMBOLS,
    SET,
    TASKS,
    VOCAB_SIZE,
    TokenTaskSizes,
    chance,
    score,
    token_sample,
    token_samples,
)


def statements(prompt) -> dict[int, int]:
    context = prompt[: prompt.index(ASK)]
    found = [(context[at + 1], context[at + 2]) for at, token in enumerate(context) if token == SET]
    assert len(dict(found)) == len(found)
    return dict(found)


def to_say(sample) -> list[int]:
    return [token for token, given in zip(sample.answer, sample.given, strict=True) if not given]


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=15, deadline=None)
@given(length=st.integers(96, 300), seed=st.integers(0, 9999), asked=st.booleans())
def test_texts_have_their_length_and_their_answers(task, length, seed, asked):
    sample = token_sample(task, length, np.random.default_rng(seed), asked=asked)
    assert sample == token_sample(task, length, np.random.default_rng(seed), asked=asked)
    prompt = sample.prompt
    assert len(prompt) == length
    assert all(0 <= token < VOCAB_SIZE for token in (*prompt, *sample.answer))
    assert prompt[0] == BOS
    question = prompt[prompt.index(ASK) + 2 :]
    assert sample.answer[0] == ANSWER
    assert sample.given[0]
    said = to_say(sample)
    if task == "needle":
        pairs = statements(prompt)
        keys = sample.answer[1::2]
        assert question == (keys if asked else ())
        assert [pairs[key] for key in keys] == said
        assert not set(pairs) & set(pairs.values())
    elif task == "track":
        links = statements(prompt)
        chain = sample.answer[1:]
        assert question == (chain[:1] if asked else ())
        assert chain[0] not in links.values()
        assert [links[name] for name in chain[:-1]] == said
        assert chain[-1] not in links
    else:
        words = [token for token in prompt if token >= FIRST_SYMBOL]
        times = {word: words.count(word) for word in words}
        most = max(times.values())
        assert {word for word, n in times.items() if n == most} == set(said)
        assert {n for word, n in times.items() if word not in said} == {most // 4}
        assert question == ()
    assert score(sample, said) == 1
    assert score(sample, []) == 0
    assert score(sample, [0] * len(said)) == 0


def test_scores_by_place_and_by_set():
    needle, _, count = (token_samples(task, 128, 1, 0)[0] for task in TASKS)
    said = to_say(needle)
    assert score(needle, said[:2]) == 0.5
    assert score(needle, said[::-1]) == 0
    said = to_say(count)
    assert score(count, said[::-1]) == 1
    assert score(count, [said[0]] * 4) == 0.25  # what comes twice counts once
    assert score(count, [0, 0, 0, 0, *said]) == 0  # only as many as are asked for


def test_first_samples_do_not_depend_on_their_number():
    assert token_samples("track", 96, 5, 1)[:2] == token_samples("track", 96, 2, 1)
    assert token_samples("track", 96, 2, 1) != token_samples("track", 96, 2, 2)
    assert len({sample.prompt for sample in token_samples("needle", 96, 20, 0)}) == 20


def test_chance_is_what_guessing_gets():
    rng = np.random.default_rng(0)
    for task in TASKS:
        found = []
        for sample in token_samples(task, 128, 300, 3):
            if task == "count":
                kinds = sorted({token for token in sample.prompt if token >= FIRST_SYMBOL})
            elif task == "needle":
                kinds = list(statements(sample.prompt).values())
            else:
                links = statements(sample.prompt)
                kinds = sorted({*links, *links.values()})
            found.append(score(sample, rng.permutation(kinds)[: len(to_say(sample))].tolist()))
        assert np.mean(found) == pytest.approx(chance(task), abs=4 * np.std(found) / len(found) ** 0.5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"pairs": 25}, f"pairs must be at most {NUM_SYMBOLS // 2}, got 25"),
        ({"queries": 17}, "queries must be at most pairs, 16; got 17"),
        ({"chains": 10}, r"chains \* \(hops \+ 1\) must be at most 48; got chains 10, hops 4"),
        ({"words": 49}, "words must be at most 48 and more than common, 4; got 49"),
        ({"common": 32}, "words must be at most 48 and more than common, 32; got 32"),
        ({"ratio": 1}, "ratio must be at least 2, got 1"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        TokenTaskSizes(**sizes)


def test_bad_arguments():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="task must be one of needle, track, count; got 'sort'"):
        token_sample("sort", 99, rng)
    with pytest.raises(ValueError, match="length must be at least 56 for 16 statements; got 40"):
        token_sample("needle", 40, rng)
    with pytest.raises(ValueError, match="length must be at least 48; got 47"):
        token_sample("count", 47, rng)
    assert len(token_sample("needle", 56, rng).prompt) == 56
    assert len(token_sample("count", 48, rng).prompt) == 48
