"""Tasks about long texts: labels read off the texts again by rules of their own, lengths, seeds, grades, bad input."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdec.evaluation.long_context import LONG_CONTEXT_TASKS, Sample, count_words, grade, mean_grade
from jaxdec.evaluation.long_context.story import story, told
from jaxdec.evaluation.long_context.story_templates import BUYING, EVENTS, HERO, PEOPLE, PLACES, SELLING
from jaxdec.evaluation.long_context.words import ADJECTIVES, FILLER, NOUNS
from tests.tiny_text import byte_tokenizer

BUDGETS = st.integers(450, 1500)
SEEDS = st.integers(0, 10_000)


def right_answer(sample: Sample) -> str:
    if sample.grading == "lines":
        return "\n".join(f"{n}. {answer}" for n, answer in enumerate(sample.answers, 1))
    return ", ".join(sample.answers)


def text_of_prompt(sample: Sample) -> str:
    return re.findall(r"<text>\n(.*)\n</text>", sample.prompt, re.DOTALL)[0]


@pytest.mark.parametrize("name", LONG_CONTEXT_TASKS)
@settings(max_examples=8, deadline=None)
@given(budget=BUDGETS, seed=SEEDS)
def test_samples_fit_repeat_and_can_be_answered(name, budget, seed):
    sample = LONG_CONTEXT_TASKS[name](budget, seed)
    assert sample == LONG_CONTEXT_TASKS[name](budget, seed)
    assert sample.prompt != LONG_CONTEXT_TASKS[name](budget, seed + 1).prompt
    assert 0.75 * min(budget, 800) < count_words(sample.prompt) <= budget
    assert grade(sample, right_answer(sample)) == 1
    assert grade(sample, "") == grade(sample, "I do not know") == 0
    assert len(set(sample.candidates)) == len(sample.candidates) > 1
    assert sample.candidates[0] in sample.answers
    assert not set(sample.candidates[1:]) & set(sample.answers) or sample.grading == "lines"


@pytest.mark.parametrize("name", LONG_CONTEXT_TASKS)
def test_length_is_what_the_caller_counts(name):
    encode = byte_tokenizer().encode

    def count(text):
        return len(encode(text))

    sample = LONG_CONTEXT_TASKS[name](3000, 1, count=count)
    assert 2500 < count(sample.prompt) <= 3000
    with pytest.raises(ValueError, match="budget must be "):
        LONG_CONTEXT_TASKS[name](60, 1, count=count)


@pytest.mark.parametrize("name", LONG_CONTEXT_TASKS)
def test_question_stands_where_it_is_asked_for(name):
    make = LONG_CONTEXT_TASKS[name]
    before, after = (make(500, 2, ask=ask).prompt.split("</text>") for ask in ("before", "after"))
    both = make(500, 2).prompt.split("</text>")
    assert "?" in before[0].split("<text>")[0]
    assert "?" not in before[1]
    assert "?" in after[1]
    assert "?" not in after[0].split("<text>")[0]
    assert "?" in both[0].split("<text>")[0]
    assert "?" in both[1]
    with pytest.raises(ValueError, match="ask must be one of both, before, after; got 'never'"):
        make(500, 2, ask="never")
    with pytest.raises(ValueError, match="budget must be at least 1, got 0"):
        make(0, 2)


@settings(max_examples=10, deadline=None)
@given(BUDGETS, SEEDS, st.integers(1, 6))
def test_needles_are_in_the_text_once(budget, seed, queries):
    sample = LONG_CONTEXT_TASKS["needle"](budget, seed, num_queries=queries)
    pairs = re.findall(r"The number of the (\w+ \w+) is (\d+)\.", text_of_prompt(sample))
    values = dict(pairs)
    assert len(values) == len(pairs)
    asked = re.findall(r"do these have: (.*)\?", sample.prompt)[0].split(", ")
    assert [values[key] for key in asked] == list(sample.answers)
    assert sample.cue == f"The number of the {asked[0]} is "
    assert set(sample.candidates) <= set(values.values())


def test_needles_among_other_sentences():
    sample = LONG_CONTEXT_TASKS["needle"](800, 3, distractors=5)
    text = text_of_prompt(sample)
    assert len(re.findall(r"The number of the", text)) == 4 + 5
    assert sum(text.count(sentence) for sentence in FILLER) > 20
    assert len(sample.candidates) == 8
    with pytest.raises(ValueError, match=r"distractors must be in 0..\d+, got -1"):
        LONG_CONTEXT_TASKS["needle"](800, 3, distractors=-1)
    with pytest.raises(ValueError, match="num_queries must be at least 1, got 0"):
        LONG_CONTEXT_TASKS["needle"](800, 3, num_queries=0)
    assert grade(sample, right_answer(sample).replace(sample.answers[1], "1")) == 0.75
    swapped = "\n".join(f"{n}. {answer}" for n, answer in enumerate(reversed(sample.answers), 1))
    assert grade(sample, swapped) == 0


@settings(max_examples=10, deadline=None)
@given(BUDGETS, SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_variables_resolve(budget, seed, chains, hops):
    sample = LONG_CONTEXT_TASKS["variable_tracking"](budget, seed, num_chains=chains, num_hops=hops)
    said = dict(re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", text_of_prompt(sample)))
    assert len(said) == chains * (hops + 1)

    def value(name):
        return name if name.isdigit() else value(said[name])

    asked = re.findall(r"have the value (\d+),", sample.prompt)[0]
    assert {name for name in said if value(name) == asked} == set(sample.answers)
    assert all(value(name) != asked for name in sample.candidates[1:])
    with pytest.raises(ValueError, match="num_hops must be at least 1, got 0"):
        LONG_CONTEXT_TASKS["variable_tracking"](budget, seed, num_hops=0)


@settings(max_examples=10, deadline=None)
@given(BUDGETS, SEEDS, st.integers(1, 6))
def test_common_words_are_the_most_frequent(budget, seed, common):
    sample = LONG_CONTEXT_TASKS["common_words"](budget, seed, num_common=common, common_times=9, rare_times=3)
    entries = re.findall(r"^\d+\. (\w+)$", text_of_prompt(sample), re.MULTILINE)
    times = {word: entries.count(word) for word in entries}
    assert {word for word, n in times.items() if n == 9} == set(sample.answers)
    assert set(times.values()) == {3, 9}
    assert all(times[word] == 3 for word in sample.candidates[1:])


def test_common_words_refuse():
    with pytest.raises(ValueError, match="common_times must be more than rare_times, 3; got 3"):
        LONG_CONTEXT_TASKS["common_words"](900, 1, common_times=3, rare_times=3)
    with pytest.raises(ValueError, match=f"num_common must be at most {len(NOUNS) - 1}, got {len(NOUNS)}"):
        LONG_CONTEXT_TASKS["common_words"](900, 1, num_common=len(NOUNS))
    assert len(set(NOUNS)) == len(NOUNS)
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)


def pattern(template: str) -> str:
    groups = {"{hero}": HERO, "{person}": rf"(?:{'|'.join(PEOPLE)})", "{item}": r"(an? \w+ \w+ \w+)"}
    for name, form in groups.items():
        template = template.replace(name, form)
    return template.replace(".", r"\.")


def trades(text: str, templates) -> list[str]:
    return [thing for template in templates for thing in re.findall(pattern(template), text)]


def chapters_of(sample: Sample) -> dict[int, str]:
    parts = re.split(r"Chapter (\d+)\. ", text_of_prompt(sample))[1:]
    return {int(number): text for number, text in zip(parts[::2], parts[1::2], strict=True)}


@settings(max_examples=8, deadline=None)
@given(st.integers(400, 1500), SEEDS, st.integers(0, 3))
def test_nothing_is_sold_that_was_not_bought(budget, seed, without):
    chapters = story(budget, seed, count_words, without)
    assert sum(count_words(chapter.text) for chapter in chapters) <= budget
    owned = set()
    for chapter in chapters:
        assert [chapter.sold] * (chapter.sold is not None) == trades(chapter.text, SELLING)
        assert [chapter.bought] * (chapter.bought is not None) == trades(chapter.text, BUYING)
        assert chapter.place in chapter.text
        assert chapter.person in chapter.text
        if chapter.sold is not None:
            assert chapter.sold in owned
            owned.remove(chapter.sold)
        if chapter.bought is not None:
            assert chapter.bought not in owned
            owned.add(chapter.bought)
    assert sum(chapter.bought is None for chapter in chapters) == without
    assert len({(chapter.place, chapter.person) for chapter in chapters}) == len(chapters)
    assert [chapter.number for chapter in chapters] == list(range(1, len(chapters) + 1))


def test_taking_purchases_out_of_a_story_would_leave_sales():
    """The reference's way, which the story does not go: of the things sold some would never have been bought."""
    whole = told(40, 5, frozenset())
    sold = {chapter.sold for chapter in whole} - {None}
    empty = {next(chapter.number for chapter in whole if chapter.bought in sold)}
    assert whole[min(empty) - 1].bought not in {chapter.sold for chapter in told(40, 5, empty)}


@settings(max_examples=8, deadline=None)
@given(BUDGETS, SEEDS)
def test_answers_about_stories_are_in_the_chapters(budget, seed):
    sample = LONG_CONTEXT_TASKS["story_retrieval"](budget, seed, num_queries=3)
    chapters = chapters_of(sample)
    question = sample.prompt.split("</text>")[1]
    asked = [int(number) for number in re.findall(r"in chapter (\d+)\?", question)]
    assert len(set(asked)) == 3
    kinds = re.findall(r"\d\. (Which place|Whom|What) did", question)
    for number, kind, answer in zip(asked, kinds, sample.answers, strict=True):
        found = {
            "Which place": [place for place in PLACES if place in chapters[number]],
            "Whom": [person for person in PEOPLE if person in chapters[number]],
            "What": trades(chapters[number], BUYING),
        }[kind]
        assert found == [answer]

    sample = LONG_CONTEXT_TASKS["story_multihop"](budget, seed)
    bought = [thing for text in chapters_of(sample).values() for thing in trades(text, BUYING)]
    later = re.findall(r"buy last before buying (.*)\?", sample.prompt)[0]
    assert sample.answers == (bought[bought.index(later) - 1],)
    assert bought.index(later) >= 1
    assert grade(sample, f"The {sample.answers[0].split(' ', 1)[1].upper()}.") == 1

    sample = LONG_CONTEXT_TASKS["story_filtering"](budget, seed, num_without=2)
    empty = [number for number, text in chapters_of(sample).items() if not trades(text, BUYING)]
    assert sorted(map(int, sample.answers)) == empty
    assert len(empty) == 2
    assert not set(map(int, sample.candidates[1:])) & set(empty)


def test_names_and_templates_do_not_contain_one_another():
    for names in (PLACES, PEOPLE):
        assert not [(a, b) for a in names for b in names if a != b and a in b]
    assert not [name for name in (*PLACES, *PEOPLE) if any(name in event for event in EVENTS)]


def test_stories_refuse_budgets_that_are_too_small():
    with pytest.raises(ValueError, match=r"budget must be enough for 4 chapters; 140 is enough for \d"):
        LONG_CONTEXT_TASKS["story_retrieval"](140, 1)
    with pytest.raises(ValueError, match=r"budget must be enough for 4 chapters; \d+ is enough for 1"):
        LONG_CONTEXT_TASKS["story_filtering"](140, 1)
    with pytest.raises(ValueError, match=r"budget must be enough for 2 chapters; 140 is enough for \d"):
        LONG_CONTEXT_TASKS["story_multihop"](140, 1)
    with pytest.raises(ValueError, match="budget must be enough for a story and the question; got 20"):
        LONG_CONTEXT_TASKS["story_multihop"](20, 1)
    with pytest.raises(ValueError, match="num_without must be at least 1, got 0"):
        LONG_CONTEXT_TASKS["story_filtering"](500, 1, num_without=0)


def test_grades():
    lines = Sample("t", "p", ("12", "the red cup"), "lines", "", ())
    assert grade(lines, "1. 12\n2) Red  cup.") == 1
    assert grade(lines, "2. 12\n1. red cup") == 0
    assert grade(lines, "1. 13\n1. 12") == 0  # the first of a number counts
    assert grade(lines, "1. 99 <answer>1. 12</answer>") == 0.5
    names = Sample("t", "p", ("ABC", "XYZ"), "set", "", ())
    assert grade(names, "VAR XYZ, abc") == 1
    assert grade(names, "1. ABC\n2. XYZ") == 1
    assert grade(names, "ABC QQQ") == pytest.approx(1 / 3)
    numbers = Sample("t", "p", ("3", "14"), "set", "", ())
    assert grade(numbers, "Chapter 3 and chapter 14.") == 1
    assert grade(numbers, "1") == 0
    exact = Sample("t", "p", ("a fine oak box",), "exact", "", ())
    assert grade(exact, "Fine oak  box.") == 1
    assert grade(exact, "a fine oak box and a cup") == 0
    assert mean_grade([exact, exact], ["fine oak box", ""]) == 0.5  # what is empty counts
    with pytest.raises(ValueError, match="one answer for each of at least one sample; got 0 for 1"):
        mean_grade([exact], [])


def test_the_page_names_the_tasks_and_its_example_runs(capsys):
    page = (Path(__file__).parents[3] / "docs" / "long_context.md").read_text(encoding="utf-8")
    for name in LONG_CONTEXT_TASKS:
        assert f"| `{name}` |" in page
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert "Which numbers do these have" in capsys.readouterr().out
