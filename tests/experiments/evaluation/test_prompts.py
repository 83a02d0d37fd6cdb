"""The prompts that ship, and how they are chosen."""

import re

import pytest

from experiments.evaluation.prompts import (
    COPY_HEAVY,
    DOMAIN_PROMPTS,
    FAMILY_PROMPTS,
    FOLDER,
    Question,
    choose,
    groups_of,
    read_questions,
)


def test_six_families_of_eight_and_two_domains_of_twenty():
    families, domains = read_questions(FAMILY_PROMPTS, "family"), read_questions(DOMAIN_PROMPTS, "domain")
    assert groups_of(families) == ["chat", "code", "math", *COPY_HEAVY]
    assert [len(choose(families, [group], None)) for group in groups_of(families)] == [8] * 6
    assert [len(choose(domains, [group], None)) for group in groups_of(domains)] == [20] * 2
    everything = [*families, *domains]
    assert len({q.id for q in everything}) == len({q.text for q in everything}) == 88
    assert "CC0" in (FOLDER / "README.md").read_text()


def test_copy_heavy_prompts_hold_a_text_and_the_others_do_not():
    for question in read_questions(FAMILY_PROMPTS, "family"):
        instruction, _, source = question.text.partition("\n\n")
        words = len(re.findall(r"\w+", source))
        assert instruction
        assert words >= 60 if question.group in COPY_HEAVY else words == 0, question.id


QUESTIONS = [Question(f"{group}{n}", group, "?") for n in range(3) for group in ("a", "b")]


def test_choose_takes_the_first_of_each_group_in_the_order_of_the_file():
    assert [q.id for q in choose(QUESTIONS, (), 2)] == ["a0", "b0", "a1", "b1"]
    assert [q.id for q in choose(QUESTIONS, ["b"], None)] == ["b0", "b1", "b2"]
    assert choose(QUESTIONS, (), None) == QUESTIONS


def test_choose_refuses():
    with pytest.raises(ValueError, match="--families must be some of a, b; got 'c'"):
        choose(QUESTIONS, ["a", "c"], None)
    with pytest.raises(ValueError, match="--limit must be at least 1, got 0"):
        choose(QUESTIONS, (), 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "x", "family": "a", "prompt": "?"}', "{"], "line 2 is no prompt"),
        (['{"id": "x", "prompt": "?"}'], "line 1 is no prompt with id, family and prompt"),
        (['{"id": "x", "family": "a", "prompt": "?"}'] * 2, "id 'x' occurs twice"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, lines, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_questions(path, "family")
